//! What the daemon does to its machine: addresses, announcements, processes.
