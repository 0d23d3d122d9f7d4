//! Completions and the manual, both made of what can be typed.

use std::io::Write;
use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::exit::{Code, Failure};
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Write each command's page into this directory, in place of printing them all
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints the completions for a shell.
pub(crate) fn completions(mut command: Command, args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "oneflight", &mut script);
    output::bytes(&script)
}

/// Prints the pages one after another, or writes each into a file of its own.
pub(crate) fn man(command: Command, args: &ManArgs) -> Result<(), Failure> {
    match &args.out {
        Some(directory) => {
            let failed = |error| {
                Failure::new(
                    Code::System,
                    format!("{} cannot be written: {error}", directory.display()),
                )
            };
            std::fs::create_dir_all(directory).map_err(failed)?;
            clap_mangen::generate_to(command, directory).map_err(failed)
        }
        None => {
            let mut command = command;
            command.build();
            let mut pages = Vec::new();
            let printed = pages_of(command, &mut pages);
            printed.map_err(|error| Failure::new(Code::Software, format!("the manual cannot be made: {error}")))?;
            output::bytes(&pages)
        }
    }
}

fn pages_of(command: Command, pages: &mut Vec<u8>) -> std::io::Result<()> {
    // As the pages in files are named: `oneflight-records-list`.
    let below: Vec<Command> = command
        .get_subcommands()
        .filter(|it| it.get_name() != "help" && !it.is_hide_set())
        .map(|it| {
            let name = format!(
                "{}-{}",
                command.get_display_name().unwrap_or(command.get_name()),
                it.get_name()
            );
            it.clone().display_name(name)
        })
        .collect();
    Man::new(command).render(pages)?;
    for command in below {
        pages.write_all(b"\n")?;
        pages_of(command, pages)?;
    }
    Ok(())
}
