//! Generates the messages between servers from their one definition.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .bytes(".")
        .compile_protos(&["proto/sidekick/consensus/v1/consensus.proto"], &["proto"])
}
