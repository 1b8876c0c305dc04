//! Compiles `proto/` into the module `rpc`, with no tool outside the registry.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["volume.proto", "peer.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    // As upstream has it, word for word: v1.12.0 of github.com/container-storage-interface/spec.
    let csi = protox::compile(["csi.proto"], ["proto"])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(csi)?;
    Ok(())
}
