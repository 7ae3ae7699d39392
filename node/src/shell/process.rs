//! What the daemon asks of the kernel for itself: not to be swapped out, not to be chosen by the OOM killer.

use rustix::mm::{MlockAllFlags, mlockall};

/// The least likely victim short of "never": an endless leak of ours must not take the machine down.
const OOM_SCORE: &str = "-900";

/// Protects this process. A machine that refuses is logged, not fatal: the daemon works, less safely.
pub fn protect() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::info!(%error, "this daemon may be chosen by the OOM killer");
    }
    // On fault: what was touched stays; stacks that were only reserved cost nothing.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        tracing::warn!(%error, "this daemon may be swapped out");
    }
}
