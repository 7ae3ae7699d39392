//! The common port and the control socket.
