//! Who a server is: identity, certificates, join tokens, TLS.
