//! The `holdfast` binary: everything is in the library's `cli`.

fn main() -> std::process::ExitCode {
    holdfast::cli::main()
}
