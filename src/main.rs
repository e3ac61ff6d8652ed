//! Parses the command line, runs the command, prints the error chain, and gives the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    unionlink::cli::main()
}
