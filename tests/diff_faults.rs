//! `fitment diff` of folders in shards, and under damage, limits and full disks: a clear error, and nothing lost or left
//! behind.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fitment_core::checkpoint::Checkpoint;
use fitment_core::container::write_container;
use fitment_core::tensor::{Dtype, Shape, Tensor};
use fitment_io::{Access, CheckpointDir};
use fitment_tests::place::scratch;
use fitment_tests::program::{self, fitment};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const FORMS: [&[&str]; 4] = [&[], &["--as", "sparse"], &["--as", "add"], &["--rank", "2"]];
const OUT: &str = "d.fitment.safetensors";

type Tensors = BTreeMap<String, Tensor<'static>>;

/// BF16 near 1; every `step`-th of another checkpoint, by up to 255 steps.
fn noise(dims: &[u64], salt: u64, step: u64) -> Tensor<'static> {
    let mixed = |at: u64| (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    let value = |at: u64| {
        let nudge = if step > 0 && at.is_multiple_of(step) { mixed(at ^ salt << 32) % 255 + 1 } else { 0 };
        (0x3f00 + mixed(at) % 128 + nudge) as u16
    };
    let bytes: Vec<u8> = (0..dims.iter().product()).flat_map(|at| value(at).to_le_bytes()).collect();
    Tensor::owned(Dtype::BF16, Shape::new(dims).unwrap(), bytes).unwrap()
}

fn name(number: u64) -> String {
    format!("model.layers.{number}.weight")
}

/// Six matrices, the last of another shape.
fn tensors(salt: u64, step: u64) -> Tensors {
    let rows = |number| if number == 5 { 100 } else { 128 };
    (0..6).map(|number| (name(number), noise(&[rows(number), 512], salt + number, step))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let mut out = fs::File::create(path).unwrap();
    write_container(&BTreeMap::new(), tensors.iter().map(|(name, t)| (name.clone(), t)), &mut out).unwrap();
}

/// A folder of one file, or of two with the first tensors in the first.
fn folder(path: &Path, tensors: &Tensors, first: Option<usize>) {
    fs::create_dir(path).unwrap();
    fs::write(path.join("config.json"), "{}").unwrap();
    let Some(first) = first else { return write(&path.join("model.safetensors"), tensors) };
    let mut map = serde_json::Map::new();
    for number in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", number + 1);
        let of_it = |(at, _): &(usize, _)| (*at < first) == (number == 0);
        let half: Tensors =
            tensors.iter().enumerate().filter(of_it).map(|(_, (n, t))| (n.clone(), t.clone())).collect();
        map.extend(half.keys().map(|name| (name.clone(), file.clone().into())));
        write(&path.join(file), &half);
    }
    index(path, map);
}

fn index(path: &Path, map: serde_json::Map<String, serde_json::Value>) {
    let index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": map});
    fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

fn run(root: &Path, arguments: &[&str]) -> Output {
    fitment().current_dir(root).args(arguments).output().unwrap()
}

fn diff(root: &Path, more: &[&str]) -> Output {
    run(root, &[&["diff", "base", "tuned", "-o", OUT, "--quiet"], more].concat())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

/// One line, perhaps with a hint below.
fn assert_refused(output: &Output, code: i32, told: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let is_clear = matches!(&lines[..], [error] | [error, _] if error.starts_with("error: "))
        && lines.get(1).is_none_or(|hint| hint.starts_with("hint: "));
    assert!(is_clear && told.iter().all(|told| text.contains(told)), "{told:?} of {text}");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Applies the diff, compares every tensor with the tuned checkpoint's, and takes both away.
fn assert_restores(root: &Path, shards: usize) {
    assert_done(&run(root, &["apply", "base", OUT, "-o", "restored", "--quiet"]));
    let restored = CheckpointDir::open(&root.join("restored"), Access::Map).unwrap();
    let tuned = CheckpointDir::open(&root.join("tuned"), Access::Map).unwrap();
    assert_eq!(restored.tensors(), tuned.tensors());
    for name in tuned.tensors().keys() {
        assert!(restored.read(name).unwrap() == tuned.read(name).unwrap(), "{name}");
    }
    let files = names(&root.join("restored"));
    assert_eq!(files.iter().filter(|name| name.ends_with(".safetensors")).count(), shards, "{files:?}");
    fs::remove_dir_all(root.join("restored")).unwrap();
    fs::remove_file(root.join(OUT)).unwrap();
}

#[test]
fn folders_in_shards_come_back_bit_for_bit() {
    for (of_base, of_tuned) in [(Some(3), Some(3)), (Some(3), None), (None, Some(2)), (Some(4), Some(1))] {
        let place = scratch();
        let root = place.path();
        folder(&root.join("base"), &tensors(0, 0), of_base);
        let mut tuned = tensors(7, 3);
        tuned.insert(name(2), noise(&[128, 512], 0, 0));
        tuned.insert(name(4), noise(&[130, 512], 0, 0));
        tuned.insert("new.weight".to_owned(), noise(&[3, 5], 1, 1));
        tuned.remove(&name(1));
        folder(&root.join("tuned"), &tuned, of_tuned);
        for form in &FORMS[..3] {
            assert_done(&diff(root, form));
            assert_restores(root, if of_base.is_some() { 2 } else { 1 });
        }
    }
}

#[test]
fn tensors_that_changed_places_are_a_diff_or_told_by_name() {
    let place = scratch();
    let root = place.path();
    let base: Tensors = (0..6).zip(tensors(0, 0).into_values()).map(|(n, t)| (name(n), t)).collect();
    let mut tuned = tensors(7, 3);
    folder(&root.join("base"), &base, Some(3));
    let (one, two) = (tuned[&name(0)].clone(), tuned[&name(1)].clone());
    tuned.extend([(name(0), two), (name(1), one)]);
    folder(&root.join("tuned"), &tuned, Some(3));
    for form in &FORMS[..3] {
        assert_done(&diff(root, form));
        assert_restores(root, 2);
    }
    tuned.insert(name(3), noise(&[512, 128], 0, 0));
    fs::remove_dir_all(root.join("tuned")).unwrap();
    folder(&root.join("tuned"), &tuned, Some(3));
    for form in &FORMS[..3] {
        let output = run(root, &[&["diff", "base", "tuned", "-o", OUT], *form].concat());
        assert_done(&output);
        let told = "model.layers.3.weight: BF16 [128, 512] becomes BF16 [512, 128]";
        assert!(stderr(&output).contains(told), "{}", stderr(&output));
        assert_restores(root, 2);
    }
    tuned.extend((0..4).map(|number| (name(number), noise(&[512, 128], 0, 0))));
    fs::remove_dir_all(root.join("tuned")).unwrap();
    folder(&root.join("tuned"), &tuned, Some(3));
    let told = "model.layers.0.weight: its shape is [128, 512] in the base and [512, 128] in the tuned";
    for form in FORMS {
        assert_refused(&diff(root, form), 1, &[told, "4 of 6 tensors", "hint: "]);
    }
    assert_eq!(names(root), ["base", "tuned"]);
}

/// What the error says, and what makes it.
type Damage = (String, Box<dyn Fn(&Path)>);

/// What may go wrong with a folder of two shards.
fn damages(folder: &Path) -> Vec<Damage> {
    const SECOND: &str = "model-00002-of-00002.safetensors";
    let bytes = fs::read(folder.join(SECOND)).unwrap();
    let mut damages: Vec<Damage> = Vec::new();
    for len in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        let bytes = bytes.clone();
        damages.push((
            SECOND.to_owned(),
            Box::new(move |at| fs::write(at.join(SECOND), &bytes[..len]).unwrap()),
        ));
    }
    let mut longer = bytes.clone();
    longer.push(0);
    damages.push((SECOND.to_owned(), Box::new(move |at| fs::write(at.join(SECOND), &longer).unwrap())));
    let missing = format!("{SECOND}: missing");
    damages.push((missing, Box::new(|at| fs::remove_file(at.join(SECOND)).unwrap())));
    damages.push((
        format!("{SECOND}: lacks \"model.layers.9.weight\""),
        Box::new(|at| {
            let entry = |number: u64, file: &str| (name(number), file.to_owned().into());
            index(at, [entry(0, "model-00001-of-00002.safetensors"), entry(9, SECOND)].into_iter().collect());
        }),
    ));
    damages.push((
        "model.safetensors.index.json: not JSON".to_owned(),
        Box::new(|at| fs::write(at.join("model.safetensors.index.json"), "{\"weight_map\": ").unwrap()),
    ));
    damages.push(("no tensors".to_owned(), Box::new(|at| index(at, serde_json::Map::new()))));
    damages
}

#[test]
fn a_damaged_folder_on_either_side_is_one_clear_line() {
    for side in ["base", "tuned"] {
        let place = scratch();
        let root = place.path();
        folder(&root.join("base"), &tensors(0, 0), Some(3));
        folder(&root.join("tuned"), &tensors(7, 3), Some(3));
        let whole: Vec<(String, Vec<u8>)> = names(&root.join(side))
            .into_iter()
            .map(|name| (name.clone(), fs::read(root.join(side).join(name)).unwrap()))
            .collect();
        for (told, damage) in damages(&root.join(side)) {
            damage(&root.join(side));
            for form in [FORMS[0], FORMS[2]] {
                assert_refused(&diff(root, form), 2, &[&told, side]);
                assert_eq!(names(root), ["base", "tuned"]);
            }
            whole.iter().for_each(|(name, bytes)| fs::write(root.join(side).join(name), bytes).unwrap());
        }
    }
}

#[test]
fn a_base_of_another_length_takes_no_diff_of_the_first() {
    let place = scratch();
    let root = place.path();
    folder(&root.join("base"), &tensors(0, 0), Some(3));
    folder(&root.join("tuned"), &tensors(7, 3), Some(3));
    let mut longer = tensors(0, 0);
    longer.insert(name(0), noise(&[129, 512], 0, 0));
    folder(&root.join("longer"), &longer, Some(3));
    for form in FORMS {
        assert_done(&diff(root, &[form, &["--force"]].concat()));
        let refused = run(root, &["apply", "longer", OUT, "-o", "restored"]);
        assert_refused(&refused, 1, &["model.layers.0.weight"]);
        assert_eq!(names(root), ["base", OUT, "longer", "tuned"]);
    }
}

/// Runs the program where no file may grow above so many KiB; the signal of that limit would end the process, so it is
/// ignored, and the write fails as on a full disk.
fn limited(root: &Path, kilobytes: u64, arguments: &[&str]) -> Output {
    let script = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$0\" \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(program::path()).args(arguments).current_dir(root);
    command.output().unwrap()
}

#[test]
fn a_limit_on_file_sizes_leaves_nothing_and_the_older_output() {
    let place = scratch();
    let root = place.path();
    folder(&root.join("base"), &tensors(0, 0), Some(3));
    folder(&root.join("tuned"), &tensors(7, 1), Some(3));
    for form in FORMS {
        assert_done(&diff(root, form));
        let size = fs::metadata(root.join(OUT)).unwrap().len() / 1024;
        fs::remove_file(root.join(OUT)).unwrap();
        let arguments = [&["diff", "base", "tuned", "-o", OUT], form].concat();
        // None of the tensors, some of them, all of them but not the file.
        for kilobytes in [0, size / 2, size - 1] {
            let failed = limited(root, kilobytes, &arguments);
            assert_refused(&failed, 2, &["File too large", "hint: "]);
            assert_eq!(names(root), ["base", "tuned"]);
            fs::write(root.join(OUT), "older").unwrap();
            let failed = limited(root, kilobytes, &[&arguments[..], &["--force"]].concat());
            assert_refused(&failed, 2, &["File too large"]);
            assert_eq!(fs::read(root.join(OUT)).unwrap(), b"older");
            fs::remove_file(root.join(OUT)).unwrap();
            assert_eq!(names(root), ["base", "tuned"]);
        }
        assert_done(&diff(root, form));
        assert_refused(&limited(root, 100, &["apply", "base", OUT, "-o", "new"]), 2, &["File too large"]);
        assert_eq!(names(root), ["base", OUT, "tuned"]);
        fs::remove_file(root.join(OUT)).unwrap();
    }
}

/// A small disk, where this user may mount one; taken away with the value.
struct Disk<'d>(&'d Path);

impl<'d> Disk<'d> {
    fn new(at: &'d Path, kilobytes: u64) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={kilobytes}k");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_nothing_and_the_older_output() {
    let place = scratch();
    let root = place.path();
    folder(&root.join("base"), &tensors(0, 0), Some(3));
    folder(&root.join("tuned"), &tensors(7, 4), Some(3));
    let at = root.join("disk");
    let target = format!("disk/{OUT}");
    for form in FORMS {
        assert_done(&diff(root, &[form, &["--force"]].concat()));
        let size = fs::metadata(root.join(OUT)).unwrap().len() / 1024;
        // What is put aside does not fit; it does, and the output beside it does not.
        for (kilobytes, told) in [(size / 2, "No space left on device"), (size + size / 2, "are free")] {
            // Only root may mount; the limit on file sizes is tested for everybody.
            let Some(_disk) = Disk::new(&at, kilobytes) else { return };
            let arguments = [&["diff", "base", "tuned", "-o", &target], form].concat();
            assert_refused(&run(root, &arguments), 2, &[told, "hint: free space there"]);
            assert!(names(&at).is_empty());
            fs::write(at.join(OUT), "older").unwrap();
            assert_refused(&run(root, &[&arguments[..], &["--force"]].concat()), 2, &[told]);
            assert_eq!(fs::read(at.join(OUT)).unwrap(), b"older");
            assert_eq!(names(&at), [OUT]);
        }
        let Some(_disk) = Disk::new(&at, 300) else { return };
        let applied = run(root, &["apply", "base", OUT, "-o", "disk/new"]);
        assert_refused(&applied, 2, &["are free", "hint: free space there"]);
        assert!(names(&at).is_empty());
    }
}

/// A diff with grown and new tensors, on what it made: shapes differ too, and the reason is named all the same.
#[test]
fn a_diff_that_grows_a_tensor_is_not_applied_twice() {
    let room = scratch();
    let root = room.path();
    let base = tensors(0, 0);
    let mut tuned = tensors(0, 50);
    tuned.insert(name(5), noise(&[110, 512], 5, 50));
    tuned.insert("new.weight".to_owned(), noise(&[4], 1, 1));
    folder(&root.join("base"), &base, None);
    folder(&root.join("tuned"), &tuned, None);
    assert_done(&run(root, &["diff", "base", "tuned", "-o", OUT]));
    assert_done(&run(root, &["apply", "base", OUT, "-o", "restored"]));
    for twice in ["tuned", "restored"] {
        let told = [&*format!("already applied: {} is the result of {OUT}", name(0))];
        assert_refused(&run(root, &["apply", twice, OUT, "-o", "twice"]), 1, &told);
    }
    let none: [&str; 0] = [];
    assert_refused(&run(root, &["apply", "tuned", OUT, "-o", "twice", "--allow-base-mismatch"]), 1, &none);
}
