//! The binary: installs the crypto provider, runs the command, exits with its code.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Small allocations on huge pages would double what an idle node holds. An error: the system has none.
    let _none = rustix::thread::disable_transparent_huge_pages(true).is_err();
    if let Err(error) = leave_no_core() {
        eprintln!("portcullis: memory with secrets could end in a core dump: {error}");
    }
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("portcullis: another crypto provider is installed already");
        return std::process::ExitCode::from(2);
    }
    portcullis::cli::run()
}

/// A crash writes no memory to the disk, and who is neither this process nor the administrator cannot read it.
fn leave_no_core() -> rustix::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    // A program that takes the dumps (`core_pattern`) gets them whatever the limit, but not of what is not dumpable.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
}
