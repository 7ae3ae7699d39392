"""Explores an independent model of the role rules and prints what an observer sees of its states, one line each.

Arguments: FILE writes crashes cuts declares last-epoch. FILE offers `init`, `succ`, `serving`, and the bounds MAXW, MAXC,
MAXL, MAXD, MAXE as globals; its own search runs when it is loaded, so it is loaded with bounds that leave nothing to search.
A line: primary, in-sync set, who serves, the writes on each copy and the acknowledged ones as bit masks.
"""
import contextlib
import io
import sys
from collections import deque

path, bounds = sys.argv[1], [int(bound) for bound in sys.argv[2:7]]
sys.argv = [path, "0", "0", "0", "0", "0"]
model = {"__name__": "__main__"}
with open(path) as file, contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    exec(compile(file.read(), path, "exec"), model)
model.update(zip(("MAXW", "MAXC", "MAXL", "MAXD", "MAXE"), bounds))


def mask(writes):
    return sum(1 << write for write in writes)


def names(members):
    return "".join("abw"[member] for member in sorted(members)) or "-"


def observed(state):
    record, data, acknowledged = state[0], state[5], state[7]
    serving = [server for server in (0, 1) if model["serving"](state, server)]
    holdings = f"{mask(data[0])} {mask(data[1])} {mask(acknowledged)}"
    return f"{names([record[1]])} {names(record[2])} {names(serving)} {holdings}"


first = model["init"]()
seen, lines, waiting = {hash(first)}, {observed(first)}, deque([first])
while waiting:
    for _, state in model["succ"](waiting.popleft()):
        if hash(state) in seen or state[0][0] > bounds[4]:
            continue
        seen.add(hash(state))
        lines.add(observed(state))
        waiting.append(state)
print(f"states {len(seen)}")
print("\n".join(sorted(lines)))
