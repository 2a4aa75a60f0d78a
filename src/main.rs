//! The binary: installs the crypto provider, runs the command, exits with its code.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Small allocations on huge pages would double what an idle node holds. An error: the system has none.
    let _none = rustix::thread::disable_transparent_huge_pages(true).is_err();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("portcullis: another crypto provider is installed already");
        return std::process::ExitCode::from(2);
    }
    portcullis::cli::run()
}
