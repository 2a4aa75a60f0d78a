//! The binary: installs the crypto provider, runs the command, exits with its code.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("portcullis: another crypto provider is installed already");
        return std::process::ExitCode::from(2);
    }
    portcullis::cli::run()
}
