//! Generates the administration API and the calls between servers from their one definition.

fn main() -> std::io::Result<()> {
    let protos = [
        "proto/sidekick/admin/v1/admin.proto",
        "proto/sidekick/peer/v1/peer.proto",
    ];
    tonic_prost_build::configure()
        .bytes(".")
        .compile_protos(&protos, &["proto"])
}
