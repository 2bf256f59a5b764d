//! `testbed images DIR`: makes the images. `testbed registry DIR ADDRESS`: serves them until it is ended.
//! `testbed export DIR REPOSITORY TAG ARCHIVE`: writes one as an archive for `coracle image import`.
//! `testbed machines up [--count N] [FLAGS OF CORACLE]`: a cluster of several machines; `testbed machines down` ends it.
//! `testbed requests MILLISECONDS ADDRESS...`: asks each address as often as that, and tells how each request went.
//! `testbed measure PROGRAM ...`: runs it; milliseconds of wall and of CPU, and most MiB resident, on standard output.
//! `testbed conformance [--results JUNIT] [--list CONFORMANCE_YAML]`: which behaviours the tests show, how those
//! tests ended, and which behaviours of the list no test shows.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["images", layout] => {
            let cache = Path::new(layout).join("packages");
            testbed::image::build_all(Path::new(layout), &cache, &|step| println!("testbed: {step}"))
        }
        ["export", layout, repository, tag, archive] => {
            testbed::image::export(Path::new(layout), repository, tag, Path::new(archive))
        }
        ["registry", layout, address] => serve(layout, address),
        ["measure", program, ref words @ ..] => measure(program, words),
        ["requests", milliseconds, ref addresses @ ..] => requests(milliseconds, addresses),
        ["machines", "up", ref options @ ..] => machines_up(options),
        ["machines", "down"] => testbed::machines::take_down().map(|count| println!("testbed: {count} sets of machines ended")),
        ["conformance", ref options @ ..] => conformance(options),
        _ => Err(std::io::Error::other(
            "usage: testbed images DIR | registry DIR ADDRESS | machines up [--count N] [FLAGS] | machines down | export DIR REPOSITORY TAG ARCHIVE | conformance [--results FILE] [--list FILE]",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("testbed: {cause}");
            ExitCode::FAILURE
        }
    }
}

fn serve(layout: &str, address: &str) -> std::io::Result<()> {
    let address = address.parse().map_err(std::io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let registry = testbed::registry::Registry::start(Path::new(layout), address).await?;
        println!("testbed: serving on {}", registry.address);
        registry.wait().await;
        Ok(())
    })
}

fn requests(milliseconds: &str, addresses: &[&str]) -> std::io::Result<()> {
    let every = std::time::Duration::from_millis(milliseconds.parse().map_err(std::io::Error::other)?);
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(testbed::requests::ask(every, addresses))
}

/// A server and its workers, each in namespaces of its own; they stay until `machines down`.
fn machines_up(options: &[&str]) -> std::io::Result<()> {
    use testbed::machines::{Machines, OUTSIDE, Plan};
    let (count, flags) = match options {
        ["--count", count, flags @ ..] => (count.parse().map_err(std::io::Error::other)?, flags),
        flags => (3, flags),
    };
    let plan = Plan { stay: true, ..Plan::of(count) }.flags(&flags.join(" "));
    let machines = Machines::start(plan)?;
    print!("{}", machines.kubectl("get nodes -o wide"));
    let command = machines.kubectl_command(&[]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let kubeconfig = machines.machines[0].data_dir.join("server/admin.kubeconfig");
    let scratch = machines.leave()?;
    println!("testbed: logs in {}; a client stands outside, at {OUTSIDE}. kubectl is", scratch.display());
    println!("KUBECONFIG={} {}", kubeconfig.display(), line.join(" "));
    Ok(())
}

/// What one run of a program costs; what it writes goes nowhere.
fn measure(program: &str, words: &[&str]) -> std::io::Result<()> {
    use std::process::{Command, Stdio};
    let begun = std::time::Instant::now();
    Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let wall = begun.elapsed().as_secs_f64() * 1000.0;
    // It is the only child there was.
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    let milliseconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1000.0 + time.tv_usec() as f64 / 1000.0;
    let cpu = milliseconds(usage.user_time()) + milliseconds(usage.system_time());
    println!("{wall:.1} {cpu:.1} {:.1}", usage.max_rss() as f64 / 1024.0);
    Ok(())
}

fn conformance(options: &[&str]) -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let shown = testbed::conformance::scan(&root).map_err(std::io::Error::other)?;
    let mut results = std::collections::BTreeMap::new();
    let mut list = Vec::new();
    for option in options.chunks(2) {
        match option {
            ["--results", file] => results = testbed::conformance::results(&std::fs::read_to_string(file)?),
            ["--list", file] => {
                let (list_of_all, _) = api::yaml::to_json(&std::fs::read(file)?).map_err(std::io::Error::other)?;
                list = testbed::conformance::behaviours(&list_of_all);
            }
            _ => return Err(std::io::Error::other(format!("unknown option: {}", option.join(" ")))),
        }
    }
    print!("{}", testbed::conformance::table(&shown, &results));
    if !list.is_empty() {
        print!("{}", testbed::conformance::left(&shown, &list));
    }
    Ok(())
}
