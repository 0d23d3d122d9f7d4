//! Nobody may read what the command prints: how it ends is the same.

use std::fs::File as Plain;
use std::io::pipe;

use super::support::{Desk, Ended, File, id, leave_in_doubt};

#[tokio::test]
async fn a_check_fails_although_the_reader_of_its_answer_went_away() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    let folder = tempfile::tempdir().unwrap();
    let empty = Desk {
        address: folder.path().join("empty.db").to_str().unwrap().to_owned(),
    };
    std::fs::write(&empty.address, "").unwrap();
    let unread = |desk: &Desk, args: &[&str]| {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        Ended::of(desk.command(args).stdout(writer).output().unwrap())
    };
    for json in [&[][..], &["--json"]] {
        unread(&file.desk, &[&["doubts", "--fail"], json].concat()).with(1);
        unread(&empty, &[&["migrate", "status", "--fail"], json].concat()).with(1);
        unread(&empty, &[&["doctor"], json].concat()).with(1);
        // Without a finding there is nothing to tell.
        unread(&file.desk, &[&["doubts"], json].concat()).with(0);
    }
}

#[test]
fn a_command_ends_with_its_code_although_nobody_reads_why() {
    let full = || Plain::options().write(true).open("/dev/full").unwrap();
    let desk = Desk {
        address: "/nowhere/orders.db".to_owned(),
    };
    let told = desk.command(&["doubts"]).stderr(full()).output().unwrap();
    assert_eq!(told.status.code(), Some(66), "{told:?}");
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let told = desk.command(&["doubts"]).stderr(writer).output().unwrap();
    assert_eq!(told.status.code(), Some(66), "{told:?}");
}

#[test]
fn what_is_told_commands_no_terminal() {
    let desk = Desk {
        address: "/nowhere/\u{1b}[2Jorders.db".to_owned(),
    };
    let told = desk.run(&["doubts"]).with(66);
    assert!(!told.contains('\u{1b}') && told.contains("\\u{1b}[2J"), "{told}");
}

#[test]
fn an_address_that_is_none_makes_no_file_and_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    for address in ["host=db user=x password=hunter2 dbname=y", "postgres:hunter2"] {
        let desk = Desk {
            address: address.to_owned(),
        };
        for args in [
            &["exec", "--key", "a", "--", "true"][..],
            &["doubts"],
            &["migrate", "up", "--yes"],
        ] {
            let ended = desk.command(args).current_dir(folder.path()).output().unwrap();
            let told = Ended::of(ended).with(64);
            assert!(!told.contains("hunter2") && told.contains("postgres://"), "{told}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
