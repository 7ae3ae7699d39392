"""What takes system calls rather than programs: run in the mounted directory."""
import errno, fcntl, mmap, os, stat, threading

def fails(expected, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except OSError as error:
        assert error.errno == expected, (errno.errorcode[error.errno], call, args)
    else:
        raise AssertionError(("succeeded", call, args))

# Unlinked while open.
fd = os.open("u", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"still here")
os.unlink("u")
assert os.fstat(fd).st_nlink == 0 and os.pread(fd, 100, 0) == b"still here"
os.ftruncate(fd, 5); os.fchmod(fd, 0o400)
assert os.fstat(fd).st_size == 5 and os.pread(fd, 100, 0) == b"still"
os.close(fd)

# Appending from several threads loses nothing.
def append(n):
    f = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for i in range(50):
        os.write(f, b"%d %d\n" % (n, i))
    os.close(f)
threads = [threading.Thread(target=append, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
assert len(open("log").readlines()) == 200

# Rename: over, exchange, noreplace; names of one file.
open("a", "w").write("a"); open("b", "w").write("b")
os.rename("a", "b"); assert open("b").read() == "a" and not os.path.exists("a")
os.link("b", "c"); os.rename("b", "c"); assert os.path.exists("b") and os.stat("c").st_nlink == 2
os.mkdir("d"); fails(errno.EISDIR, os.rename, "b", "d"); fails(errno.ENOTDIR, os.rename, "d", "b")
fails(errno.EINVAL, os.rename, "d", "d/e")
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def renameat2(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags):
        raise OSError(ctypes.get_errno(), "renameat2")
open("e", "w").write("e"); renameat2("e", "d", 2)
assert os.path.isdir("e") and open("d").read() == "e"
fails(errno.EEXIST, renameat2, "d", "e", 1); renameat2("d", "f", 1)

# Errors of names.
fails(errno.ENOENT, os.stat, "none"); fails(errno.EEXIST, os.mkdir, "e"); fails(errno.ENAMETOOLONG, os.mkdir, "x" * 256)
os.mkdir("e/sub"); fails(errno.ENOTEMPTY, os.rmdir, "e"); fails(errno.ENOTDIR, os.rmdir, "f"); fails(errno.EISDIR, os.unlink, "e")
fails(errno.ELOOP, os.open, os.symlink("self", "self") or "self", os.O_RDONLY)

# Holes and allocation.
fd = os.open("h", os.O_RDWR | os.O_CREAT, 0o600)
os.posix_fallocate(fd, 0, 1 << 20); assert os.fstat(fd).st_size == 1 << 20
os.pwrite(fd, b"x" * 8192, 0)
KEEP, PUNCH, ZERO = 1, 2, 16
def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")
fallocate(fd, KEEP | PUNCH, 0, 4096); assert os.pread(fd, 8192, 0) == bytes(4096) + b"x" * 4096
try:
    fallocate(fd, ZERO, 4096, 4096); assert os.pread(fd, 8192, 0) == bytes(8192)
except OSError as error:
    assert error.errno == errno.EOPNOTSUPP
os.ftruncate(fd, 0); os.pwrite(fd, b"end", 10 << 20)
assert os.lseek(fd, 0, os.SEEK_DATA) >= 8 << 20 and os.lseek(fd, 0, os.SEEK_HOLE) == 0
fails(errno.ENXIO, os.lseek, fd, 11 << 20, os.SEEK_DATA)
os.close(fd)

# Shared mappings: what is written through one is in the file, and what is written to the file is in it.
fd = os.open("m", os.O_RDWR | os.O_CREAT, 0o600); os.pwrite(fd, bytes(16384), 0)
with mmap.mmap(fd, 16384) as m:
    m[5000:5005] = b"mmaps"; m.flush()
    assert os.pread(fd, 5, 5000) == b"mmaps"
    os.pwrite(fd, b"pwrite", 9000); assert m[9000:9006] == b"pwrite"
    direct = os.open("m", os.O_RDWR | os.O_DIRECT)
    block = mmap.mmap(-1, 4096); block[:] = b"d" * 4096
    assert os.pwritev(direct, [block], 0) == 4096 and m[:4096] == b"d" * 4096
    os.preadv(direct, [block], 4096); assert block[904:909] == b"mmaps"
    os.close(direct)
os.close(fd)

# Synchronous and direct.
fd = os.open("s", os.O_WRONLY | os.O_CREAT | os.O_DIRECT | os.O_DSYNC, 0o600)
assert os.pwritev(fd, [block], 0) == 4096; os.fdatasync(fd); os.fsync(fd); os.close(fd)
d = os.open(".", os.O_RDONLY | os.O_DIRECTORY); os.fsync(d); os.close(d)

# Extended attributes, on links and files; sizes.
os.setxattr("m", "user.a", b"1"); os.setxattr("m", "user.big", b"v" * 2000)
assert sorted(os.listxattr("m")) == ["user.a", "user.big"] and os.getxattr("m", "user.big") == b"v" * 2000
fails(errno.EEXIST, os.setxattr, "m", "user.a", b"2", os.XATTR_CREATE)
fails(errno.ENODATA, os.setxattr, "m", "user.c", b"2", os.XATTR_REPLACE)
os.removexattr("m", "user.a"); fails(errno.ENODATA, os.getxattr, "m", "user.a")
os.symlink("m", "l"); os.setxattr("l", "trusted.t", b"link", follow_symlinks=False)
assert os.listxattr("l", follow_symlinks=False) == ["trusted.t"] and "trusted.t" not in os.listxattr("m")

# ACLs are kept and obeyed: version 2, then owner rwx, user 1000 r, group -, mask r, other -.
def acl(*entries):
    return b"\x02\x00\x00\x00" + b"".join(t.to_bytes(2, "little") + p.to_bytes(2, "little") + (i & 0xffffffff).to_bytes(4, "little") for t, p, i in entries)
os.chmod(".", 0o755); open("acl", "w").write("x"); os.chmod("acl", 0o600)
os.setxattr("acl", "system.posix_acl_access", acl((1, 6, -1), (2, 4, 1000), (4, 0, -1), (16, 4, -1), (32, 0, -1)))
assert stat.S_IMODE(os.stat("acl").st_mode) == 0o640
def as_user(uid, mode):
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([]); os.setgid(uid); os.setuid(uid)
            os.close(os.open("acl", mode)); os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
os.chmod("..", 0o755)
assert as_user(1000, os.O_RDONLY) == 0 and as_user(1000, os.O_WRONLY) == errno.EACCES and as_user(1001, os.O_RDONLY) == errno.EACCES
# A default ACL decides instead of the umask.
os.mkdir("dacl"); os.setxattr("dacl", "system.posix_acl_default", acl((1, 7, -1), (2, 7, 1000), (4, 7, -1), (16, 7, -1), (32, 0, -1)))
os.umask(0o077); open("dacl/f", "w").close(); assert stat.S_IMODE(os.stat("dacl/f").st_mode) == 0o660, oct(os.stat("dacl/f").st_mode)
os.umask(0o022); open("plain", "w").close(); assert stat.S_IMODE(os.stat("plain").st_mode) == 0o644

# Locks are the kernel's.
f, g = open("log"), open("log")
fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB); fails(errno.EAGAIN, fcntl.flock, g, fcntl.LOCK_EX | fcntl.LOCK_NB)

# A large directory, changed while it is read.
os.mkdir("many")
for i in range(3000):
    os.close(os.open("many/%04d" % i, os.O_CREAT | os.O_WRONLY))
assert len(os.listdir("many")) == 3000
with os.scandir("many") as entries:
    for entry in entries:
        entry.stat(); os.unlink(entry.path)
assert os.listdir("many") == []
# Copies within the kernel.
src, dst = os.open("log", os.O_RDONLY), os.open("copy", os.O_RDWR | os.O_CREAT)
assert os.copy_file_range(src, dst, 1 << 20) == os.fstat(src).st_size and os.pread(dst, 1 << 20, 0) == open("log", "rb").read()
