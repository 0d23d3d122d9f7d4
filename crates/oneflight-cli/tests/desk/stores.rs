//! A file that is no store, or that is written while it is looked at.

use super::support::{Desk, File, id};

#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(
        &path,
        "my notes, which are longer than the header of a database: so it cannot be one",
    )
    .unwrap();
    let desk = Desk {
        address: path.to_str().unwrap().to_owned(),
    };
    let told = desk.run(&["doubts"]).with(69);
    assert!(told.contains("notes.txt") && told.contains("not a database"), "{told}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("my notes"));
    let directory = Desk {
        address: folder.path().to_str().unwrap().to_owned(),
    };
    directory.run(&["doubts"]).with(69);
}

#[tokio::test]
async fn a_file_is_named_as_a_path_or_by_a_url() {
    let file = File::new().await;
    file.idem().run(id("a7f3"), |_| async { 7 }).await.unwrap();
    let path = file.path.to_str().unwrap();
    for address in [path.to_owned(), format!("sqlite://{path}"), format!("sqlite:{path}")] {
        let desk = Desk { address };
        assert!(desk.run(&["records", "show", "a7f3"]).well().contains("completed"));
    }
}

#[tokio::test]
async fn what_is_stored_cannot_command_the_terminal() {
    let file = File::new().await;
    file.idem()
        .run(id("a7f3"), |_| async { "\u{1b}]0;owned\u{7}".to_owned() })
        .await
        .unwrap();
    let shown = file.desk.run(&["records", "show", "a7f3", "--body"]).well();
    assert!(!shown.contains('\u{1b}'), "{shown}");
}
