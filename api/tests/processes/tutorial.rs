//! `docs/TUTORIAL.md`: every command is run, in one shell, against a real `amends dev`; what it prints is what the
//! document says. `UPDATE_TUTORIAL=1` writes into the document what was printed.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use chrono::DateTime;
use uuid::Uuid;

use crate::{samples::dev, support::Broker};

/// Where the document says that the shop is.
const SHOP: &str = "http://127.0.0.1:8080";
/// The command by which a reader starts it.
const START: &str = "make run ARGS=\"--auth --fresh\"\n";
/// A line between what two blocks print.
const BOUNDARY: &str = "=== end of a block ===";
/// Fewer digits could be a number or a word.
const HASH_SHORTEST: usize = 32;

/// A block of commands, and what it prints.
struct Block {
    commands: String,
    printed: Option<Printed>,
}

/// What the document says that a block prints.
struct Printed {
    text: String,
    /// Its place in the document.
    at: std::ops::Range<usize>,
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/TUTORIAL.md")
}

/// Reads the blocks of a document. A block without a language is what the block of commands before it prints.
fn blocks(document: &str) -> Vec<Block> {
    let (mut blocks, mut at) = (Vec::<Block>::new(), 0);
    while let Some(fence) = document[at..].find("```") {
        let (language, _) = document[at + fence + 3..].split_once('\n').expect("a line");
        let begins = at + fence + 3 + language.len() + 1;
        let ends = begins + document[begins..].find("```").expect("the end of the block");
        let text = document[begins..ends].to_owned();
        match language {
            "sh" => blocks.push(Block { commands: text, printed: None }),
            "" => blocks.last_mut().expect("commands").printed = Some(Printed { text, at: begins..ends }),
            other => panic!("a block of {other}"),
        }
        at = ends + 3;
    }
    blocks
}

/// Replaces what differs from run to run, and drops white space.
fn normalised(text: &str) -> String {
    let (mut normal, mut word) = (String::new(), String::new());
    for character in text.chars().chain(['\n']) {
        if character.is_ascii_alphanumeric() || matches!(character, '-' | ':' | '.') {
            word.push(character);
            continue;
        }
        normal.push_str(kind_of(&word));
        word.clear();
        if !character.is_whitespace() {
            normal.push(character);
        }
    }
    normal
}

fn kind_of(word: &str) -> &str {
    let is_hash = word.len() >= HASH_SHORTEST && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    match word {
        _ if word.len() == 36 && Uuid::parse_str(word).is_ok() => "an-id",
        _ if DateTime::parse_from_rfc3339(word).is_ok() => "a-time",
        _ if is_hash => "a-hash",
        _ if word.starts_with("TRK-") => "a-parcel",
        other => other,
    }
}

/// Drops the headers of an answer that the document does not show.
fn shown(printed: &str, document: &str) -> String {
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.to_ascii_lowercase());
    let told: Vec<String> = document.lines().filter_map(name).collect();
    let (mut lines, mut is_head) = (Vec::new(), false);
    for line in printed.lines() {
        if line.starts_with("HTTP/1.1 ") {
            is_head = true;
        } else if line.trim().is_empty() {
            is_head = false;
        } else if is_head && name(line).is_some_and(|name| !told.contains(&name)) {
            continue;
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// A running process group, ended with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs all blocks in one shell, as a reader does; returns what each has printed, or all if a command has failed.
fn run(blocks: &[Block], directory: &Path, shop: &str) -> Result<Vec<String>, String> {
    let ends = format!("\nprintf '%s\\n' '{BOUNDARY}'\n");
    let commands: Vec<&str> = blocks.iter().map(|block| block.commands.as_str()).collect();
    let script = commands.join(&ends).replace(SHOP, shop) + &ends;
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    let printed = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() {
        return Err(format!("{printed}\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(printed.split_terminator(&format!("{BOUNDARY}\n")).map(str::to_owned).collect())
}

/// How often the tutorial is tried. Its reader cancels an order while its card is charged, which takes three seconds: a busy
/// machine may be slower.
const ATTEMPTS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_tutorial_prints_what_the_tutorial_says() {
    let mut differences = Vec::new();
    for _ in 0..ATTEMPTS {
        match follow() {
            Ok(()) => return,
            Err(difference) => differences.push(difference),
        }
    }
    panic!("{}", differences.join("\n\n"));
}

/// Does what the tutorial says; returns the first difference.
fn follow() -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut dev = dev(&Broker::embedded(), &data, &["--auth", "--log", "warn"]);
    let mut dev = Killed(dev.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(dev.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let shop = lines.find_map(|line| line.strip_prefix("ready ").map(str::to_owned)).expect("it is ready");
    // A reader has built the program in the directory that the data is in.
    fs::create_dir_all(directory.path().join("target/debug")).unwrap();
    symlink(env!("CARGO_BIN_EXE_amends"), directory.path().join("target/debug/amends")).unwrap();

    let document = fs::read_to_string(path()).unwrap();
    let mut blocks = blocks(&document);
    assert_eq!(blocks.remove(0).commands, START);
    assert!(blocks.len() > 10, "{} blocks", blocks.len());
    let printed = run(&blocks, directory.path(), &shop)?;
    assert_eq!(printed.len(), blocks.len());
    let mut written = document.clone();
    for (block, printed) in blocks.iter().zip(&printed).rev() {
        let Some(Printed { text, at }) = &block.printed else {
            assert_eq!(printed, "", "this prints something:\n{}", block.commands);
            continue;
        };
        let printed = printed.replace(&shop, SHOP).replace('\r', "");
        if env::var_os("UPDATE_TUTORIAL").is_some() {
            written.replace_range(at.clone(), &printed);
            continue;
        }
        let shown = shown(&printed, text);
        if normalised(&shown) != normalised(text) {
            return Err(format!("{}\nprints:\n{shown}\ninstead of:\n{text}", block.commands));
        }
    }
    if written != document {
        fs::write(path(), written).unwrap();
    }
    Ok(())
}

#[test]
fn what_differs_from_run_to_run_is_compared_by_its_kind() {
    let run = "\"id\":\"01a21cd0-ece5-7455-be24-d6946199603e\",\n \"at\":\"2026-11-27T11:43:03.909Z\"";
    assert_eq!(normalised(run), "\"id\":\"an-id\",\"at\":\"a-time\"");
    assert_eq!(normalised(&format!("etag: \"{}\"", "0f".repeat(16))), "etag:\"a-hash\"");
    assert_ne!(normalised("\"quantity\":1"), normalised("\"quantity\":2"));
    let answer = "HTTP/1.1 200 OK\r\ndate: now\r\netag: \"x\"\r\n\r\n{}";
    assert_eq!(shown(answer, "HTTP/1.1 200 OK\netag: \"y\"\n\n{}"), "HTTP/1.1 200 OK\netag: \"x\"\n\n{}");
}
