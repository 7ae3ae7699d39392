//! Generates the administration API from its one definition.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .bytes(".")
        .compile_protos(&["proto/sidekick/admin/v1/admin.proto"], &["proto"])
}
