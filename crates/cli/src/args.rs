//! From words to a [`Command`].

mod words;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use stockade::container::Network;
use stockade::process::User;

use self::words::{Word, Words, shown};
use crate::fail::Fail;
use crate::help;
use crate::value::{self, Volume};

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    Run(Box<Run>),
    Exec(Exec),
    List(Dirs),
    Stop(Dirs, String),
    Delete(Dirs, String),
    Help(&'static str),
    Version,
}

/// Where the runtime keeps its files; `None` where it has them by default.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dirs {
    pub(crate) run: Option<PathBuf>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) cgroup: Option<PathBuf>,
}

/// The root file system.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Root {
    Dir(PathBuf),
    /// An archive, to be unpacked for this run.
    Image(PathBuf),
    Host,
}

/// What is asked of the command, in `run` and `exec` alike.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) user: Option<User>,
}

/// `stockade run`.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) dirs: Dirs,
    pub(crate) root: Root,
    pub(crate) process: Process,
    pub(crate) name: Option<String>,
    pub(crate) network: Network,
    pub(crate) memory: Option<u64>,
    pub(crate) pids: Option<u64>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) switches: Switches,
}

/// Options without a value.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    pub(crate) resource_views: bool,
    pub(crate) read_only: bool,
    pub(crate) privileged: bool,
    pub(crate) no_seccomp: bool,
}

/// `stockade exec`.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) dirs: Dirs,
    pub(crate) name: String,
    pub(crate) process: Process,
}

/// Reads the words after the program's own name.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Command, Fail> {
    let mut words = Words::new(words);
    let Some(verb) = words.rest.next() else {
        return Err(words.usage("say what to do"));
    };
    match verb.as_bytes() {
        b"run" => run(words.of("run")),
        b"exec" => exec(words.of("exec")),
        b"list" | b"ls" => dirs_only(words.of("list"), help::LIST),
        b"stop" => one_name(words.of("stop"), help::STOP, Command::Stop),
        b"delete" | b"rm" => one_name(words.of("delete"), help::DELETE, Command::Delete),
        b"help" | b"--help" | b"-h" => Ok(Command::Help(help::TOP)),
        b"--version" | b"-V" => Ok(Command::Version),
        other => Err(words.usage(format!("there is no command `{}`", shown(other)))),
    }
}

impl Dirs {
    /// Takes the option if it is one of these.
    fn take<I: Iterator<Item = OsString>>(
        &mut self,
        option: &str,
        words: &mut Words<I>,
    ) -> Result<bool, Fail> {
        let place = match option {
            "--run-dir" => &mut self.run,
            "--state-dir" => &mut self.state,
            "--cgroup" => &mut self.cgroup,
            _ => return Ok(false),
        };
        *place = Some(words.value(option)?.into());
        Ok(true)
    }
}

impl Process {
    /// Takes the option if it is one of these.
    fn take<I: Iterator<Item = OsString>>(
        &mut self,
        option: &str,
        words: &mut Words<I>,
    ) -> Result<bool, Fail> {
        match option {
            "-e" | "--env" => {
                let value = words.value(option)?;
                let variable = value::variable(&value);
                // The text may be a secret: it is not repeated.
                self.env.push(variable.map_err(|why| words.usage(format!("{option}: the value {why}")))?);
            }
            "-w" | "--workdir" => self.workdir = Some(words.value(option)?.into()),
            "-u" | "--user" => {
                let text = words.text(option)?;
                let user = text
                    .parse()
                    .map_err(|_| words.bad(option, text.as_ref(), "is not UID or UID:GID, by number"))?;
                self.user = Some(user);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes the command: `first`, if it is read already, and all that is left.
    fn command<I: Iterator<Item = OsString>>(
        &mut self,
        first: Option<OsString>,
        words: &mut Words<I>,
    ) -> Result<(), Fail> {
        self.args = first.into_iter().chain(words.rest.by_ref()).collect();
        match self.args.first() {
            None => Err(words.usage("say which command to run")),
            Some(program) if program.is_empty() => Err(words.usage("the command is an empty word")),
            Some(_) => Ok(()),
        }
    }
}

fn run(mut words: Words<impl Iterator<Item = OsString>>) -> Result<Command, Fail> {
    let mut root = None;
    let mut run = Run {
        dirs: Dirs::default(),
        root: Root::Host,
        process: Process::default(),
        name: None,
        network: Network::None,
        memory: None,
        pids: None,
        volumes: Vec::new(),
        switches: Switches::default(),
    };
    let first = loop {
        let option = match words.next() {
            Some(Word::Option(option)) => option,
            Some(Word::Plain(program)) => break Some(program),
            Some(Word::End) | None => break None,
        };
        match option.as_str() {
            "-h" | "--help" => return Ok(Command::Help(help::RUN)),
            "--rootfs" | "--image" | "--host" => {
                let new = match option.as_str() {
                    "--rootfs" => Root::Dir(words.value(&option)?.into()),
                    "--image" => Root::Image(words.value(&option)?.into()),
                    _ => {
                        words.no_value(&option)?;
                        Root::Host
                    }
                };
                if root.replace(new).is_some() {
                    return Err(words
                        .usage("there are two root file systems: give one of --rootfs, --image and --host"));
                }
            }
            "--name" => run.name = Some(words.text(&option)?),
            "--net" | "--network" => {
                let text = words.text(&option)?;
                run.network = match text.as_str() {
                    "none" => Network::None,
                    "host" => Network::Host,
                    _ => {
                        return Err(words.bad(
                            &option,
                            text.as_ref(),
                            "is no network: there are none and host",
                        ));
                    }
                };
            }
            "--memory" => {
                let text = words.text(&option)?;
                let size = value::size(&text);
                run.memory = Some(size.map_err(|why| words.bad(&option, text.as_ref(), &why))?);
            }
            "--pids" => run.pids = Some(words.number(&option)?),
            "-v" | "--volume" => {
                let text = words.value(&option)?;
                let volume = value::volume(&text);
                run.volumes.push(volume.map_err(|why| words.bad(&option, &text, &why))?);
            }
            "--rm" | "--read-only" | "--privileged" | "--no-seccomp" | "--resource-views" => {
                words.no_value(&option)?;
                let s = &mut run.switches;
                match option.as_str() {
                    "--read-only" => s.read_only = true,
                    "--privileged" => s.privileged = true,
                    "--no-seccomp" => s.no_seccomp = true,
                    "--resource-views" => s.resource_views = true,
                    // It is always removed.
                    _ => {}
                }
            }
            _ => {
                if !run.dirs.take(&option, &mut words)? && !run.process.take(&option, &mut words)? {
                    return words.unknown(&option);
                }
            }
        }
    };
    run.root = root.ok_or_else(|| {
        words.usage("there is no root file system: give --rootfs DIR, --image FILE or --host")
    })?;
    run.process.command(first, &mut words)?;
    Ok(Command::Run(Box::new(run)))
}

fn exec(mut words: Words<impl Iterator<Item = OsString>>) -> Result<Command, Fail> {
    let mut dirs = Dirs::default();
    let mut process = Process::default();
    let name = loop {
        match words.next() {
            Some(Word::Option(option)) => match option.as_str() {
                "-h" | "--help" => return Ok(Command::Help(help::EXEC)),
                _ if dirs.take(&option, &mut words)? || process.take(&option, &mut words)? => {}
                _ => return words.unknown(&option),
            },
            Some(Word::Plain(name)) => break utf8(name, &words)?,
            Some(Word::End) | None => return Err(words.usage("say which container")),
        }
    };
    let first = words.rest.next().filter(|word| word != "--");
    process.command(first, &mut words)?;
    Ok(Command::Exec(Exec { dirs, name, process }))
}

fn dirs_only(mut words: Words<impl Iterator<Item = OsString>>, help: &'static str) -> Result<Command, Fail> {
    let mut dirs = Dirs::default();
    while let Some(word) = words.next() {
        match word {
            Word::Option(option) if matches!(option.as_str(), "-h" | "--help") => {
                return Ok(Command::Help(help));
            }
            Word::Option(option) if dirs.take(&option, &mut words)? => {}
            Word::Option(option) => return words.unknown(&option),
            Word::Plain(word) => return Err(extra(&word, &words)),
            Word::End => {}
        }
    }
    Ok(Command::List(dirs))
}

fn one_name(
    mut words: Words<impl Iterator<Item = OsString>>,
    help: &'static str,
    make: fn(Dirs, String) -> Command,
) -> Result<Command, Fail> {
    let mut dirs = Dirs::default();
    let mut name = None;
    while let Some(word) = words.next() {
        match word {
            Word::Option(option) if matches!(option.as_str(), "-h" | "--help") => {
                return Ok(Command::Help(help));
            }
            Word::Option(option) if dirs.take(&option, &mut words)? => {}
            Word::Option(option) => return words.unknown(&option),
            Word::Plain(word) if name.is_none() => name = Some(utf8(word, &words)?),
            Word::Plain(word) => return Err(extra(&word, &words)),
            Word::End => {}
        }
    }
    Ok(make(dirs, name.ok_or_else(|| words.usage("say which container"))?))
}

fn utf8<I: Iterator<Item = OsString>>(word: OsString, words: &Words<I>) -> Result<String, Fail> {
    word.into_string().map_err(|w| words.usage(format!("`{}` is no name", shown(w.as_bytes()))))
}

fn extra<I: Iterator<Item = OsString>>(word: &OsStr, words: &Words<I>) -> Fail {
    words.usage(format!("`{}` is one word too many", shown(word.as_bytes())))
}
