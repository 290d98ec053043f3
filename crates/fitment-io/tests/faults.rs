//! Kill, a limit on file sizes, folders without write permission: a clear error and nothing lost.
//!
//! Each case runs this test binary again as a child, in the mode that the variable `FITMENT_IO_CHILD` names.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use fitment_core::checkpoint::{CheckpointSink, OutputTensor};
use fitment_io::{Access, CheckpointDir, CheckpointOutput, OutputOptions};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{hf_folder, line, names, same_tensors, tree, write};

/// A command that runs one test of this file in a child.
fn child(test: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env("FITMENT_IO_CHILD", root);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// In the child: the folder to work in.
fn child_root() -> Option<std::path::PathBuf> {
    std::env::var_os("FITMENT_IO_CHILD").map(Into::into)
}

/// Copies every tensor, slowly, so that a kill meets every stage.
fn copy_slowly(root: &Path, force: bool) -> fitment_io::Result<()> {
    let base = CheckpointDir::open(&root.join("base"), Access::Map)?;
    let tensors = same_tensors(&base);
    let tensors: Vec<&OutputTensor> = tensors.iter().collect();
    let options = OutputOptions { force, ..OutputOptions::default() };
    let output = CheckpointOutput::create(&base, &root.join("out"), (&tensors, &[]), &options)?;
    for tensor in tensors {
        std::thread::sleep(Duration::from_millis(2));
        output.copy(&tensor.name, &tensor.name).unwrap();
    }
    output.finish().map(|_| ())
}

#[test]
fn a_kill_leaves_no_output_or_the_whole_one() {
    if let Some(root) = child_root() {
        copy_slowly(&root, false).unwrap();
        return;
    }
    let root = tempfile::tempdir().unwrap();
    hf_folder(root.path());
    let reference = {
        copy_slowly(root.path(), false).unwrap();
        let files = tree(&root.path().join("out"));
        fs::remove_dir_all(root.path().join("out")).unwrap();
        files
    };
    let (mut absent, mut whole) = (0, 0);
    for step in 0..30 {
        let mut running = child("a_kill_leaves_no_output_or_the_whole_one", root.path()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(step));
        running.kill().unwrap();
        running.wait().unwrap();
        let target = root.path().join("out");
        if target.exists() {
            assert_eq!(tree(&target), reference);
            fs::remove_dir_all(&target).unwrap();
            whole += 1;
        } else {
            absent += 1;
        }
    }
    assert!(absent > 0, "{absent} runs were killed in time, {whole} were done");
    copy_slowly(root.path(), false).unwrap();
    assert_eq!(tree(&root.path().join("out")), reference);
    assert_eq!(names(root.path()), ["base", "out"], "what killed runs left is removed");
}

#[test]
fn a_kill_while_replacing_leaves_the_old_or_the_new() {
    if let Some(root) = child_root() {
        copy_slowly(&root, true).unwrap();
        return;
    }
    let root = tempfile::tempdir().unwrap();
    hf_folder(root.path());
    copy_slowly(root.path(), false).unwrap();
    let new = tree(&root.path().join("out"));
    for step in 0..30 {
        let target = root.path().join("out");
        let _ = fs::remove_dir_all(&target);
        write(&target.join("config.json"), "old");
        let old = tree(&target);
        let mut running =
            child("a_kill_while_replacing_leaves_the_old_or_the_new", root.path()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(step));
        running.kill().unwrap();
        running.wait().unwrap();
        let found = tree(&target);
        assert!(found == old || found == new, "{:?}", found.keys().collect::<Vec<_>>());
    }
}

#[test]
fn a_limit_on_file_sizes_is_a_clear_error() {
    if let Some(root) = child_root() {
        let error = copy_slowly(&root, false).expect_err("the limit is lower than a shard");
        println!("MESSAGE {}", line(&error, &root));
        return;
    }
    let root = tempfile::tempdir().unwrap();
    hf_folder(root.path());
    let inner = child("a_limit_on_file_sizes_is_a_clear_error", root.path());
    // `trap '' XFSZ`: without it the signal of that limit ends the process.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let mut limited = Command::new("bash");
    limited.arg("-c").arg(script).arg(inner.get_program()).args(inner.get_args());
    limited.env("FITMENT_IO_CHILD", root.path());
    let output = limited.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let message = text.lines().find_map(|line| line.split_once("MESSAGE ")).expect("a message").1;
    assert!(message.ends_with("cannot make room for: File too large (os error 27)"), "{message}");
    assert_eq!(names(root.path()), ["base"]);
}

#[test]
fn a_full_disk_is_a_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let base = hf_folder(root.path());
    let disk = root.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=200k", "tmpfs"]).arg(&disk).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        // Only root may mount; the limit on file sizes is tested for everybody.
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let base = CheckpointDir::open(&base, Access::Map).unwrap();
        let error = support::copy_all(&base, &disk.join("out"), &OutputOptions::default()).unwrap_err();
        let text = line(&error, root.path());
        let left = names(&disk);
        (text, left)
    });
    Command::new("umount").arg(&disk).status().unwrap();
    let (text, left) = result.unwrap();
    assert!(text.starts_with("ROOT/disk: the output needs ") && text.ends_with(" are free"), "{text}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_folder_without_write_permission_is_a_clear_error() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    if let Some(root) = child_root() {
        let base = CheckpointDir::open(&root.join("base"), Access::Map).unwrap();
        let error =
            support::copy_all(&base, &root.join("locked/out"), &OutputOptions::default()).unwrap_err();
        println!("MESSAGE {} HINT {}", line(&error, &root), error.hint().unwrap_or_default());
        return;
    }
    let root = tempfile::tempdir().unwrap();
    hf_folder(root.path());
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let parent = root.path().join("locked");
    fs::create_dir(&parent).unwrap();
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o555)).unwrap();
    let mut command = child("a_folder_without_write_permission_is_a_clear_error", root.path());
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        // Root may write anywhere. The program is copied, for nobody may have no way to where it was built.
        let program = root.path().join("program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        command = Command::new(&program);
        command.args(["--exact", "a_folder_without_write_permission_is_a_clear_error", "--nocapture"]);
        command.env("FITMENT_IO_CHILD", root.path()).current_dir(root.path()).uid(NOBODY);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let message = text.lines().find_map(|line| line.split_once("MESSAGE ")).expect("a message").1;
    assert!(
        message.contains("cannot create: Permission denied (os error 13) HINT check the owner"),
        "{message}"
    );
    assert!(names(&parent).is_empty());
}
