#!/usr/bin/env python3
"""A reader of valid Fitment 1.0 files in plain Python, written from fitment-1.0.md alone.

`python3 reader.py FILE` prints the model dump (appendix A). It checks what keeps a reader from misreading: lengths, digests, content id,
required features. It does not check every rule: that is a checker's work.
"""

import hashlib
import json
import re
import struct
import sys

FEATURES = set(
    """add add.exceptions bits component config experts intervention intervention.activation intervention.dims intervention.input_site
    lora lora.conv lora.magnitude lora.mid lora.stacked lora.transposed remove set set.create set.reshape set.rows slice sparse_add sparse_set uses when""".split()
)
# Section 7.2: what of an edit enters the content id, in the order in which appendix A prints it.
FUNCTION = """component target experts slice uses when form transposed site input_site dims scale activation subtract orthonormal
magnitude positions overlap rounding dtype create reshape key value base result changed""".split()


class Refused(Exception):
    """The file cannot be read; the message says why."""


class Number(str):
    """A number as the manifest spells it: in a valid file that is RFC 8785's form already (section 3.1)."""


def parse(text):
    """JSON with numbers kept as they are spelled, without tolerance for a key that comes twice."""
    def pairs(items):
        fields = dict(items)
        if len(fields) != len(items):
            raise Refused("a key stands twice in one object")
        return fields
    return json.loads(text, parse_int=Number, parse_float=Number, object_pairs_hook=pairs)


def canonical(value):
    """RFC 8785 text of a parsed value."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{quote(key)}:{canonical(value[key])}" for key in in_order(value)) + "}"
    return quote(value) if isinstance(value, str) else json.dumps(value)


def quote(text):
    return json.dumps(text, ensure_ascii=False)  # escapes exactly what section 2.2 lists


def in_order(fields):
    """Keys in UTF-16 order."""
    return sorted(fields, key=lambda key: key.encode("utf-16-be"))


class Tensor:
    """One stored tensor."""

    def __init__(self, entry, data):
        start, end = (int(offset) for offset in entry["data_offsets"])
        self.dtype, self.shape, self.bytes = entry["dtype"], entry["shape"], data[start:end]
        if not 0 <= start <= end <= len(data):
            raise Refused("a tensor lies outside the data")

    def digest(self, name):
        """Section 7.1."""
        digest = hashlib.sha256(b"fitment1.tensor\n")
        for part in (name.encode(), self.dtype.encode()):
            digest.update(struct.pack("<Q", len(part)) + part)
        digest.update(struct.pack(f"<{1 + len(self.shape)}Q", len(self.shape), *map(int, self.shape)))
        digest.update(self.bytes)
        return digest.hexdigest()

    def text(self):
        return f"{self.dtype} {canonical(self.shape)} {hashlib.sha256(self.bytes).hexdigest()}"


def read(path):
    """The manifest and the stored tensors of a file (sections 2 and 7)."""
    with open(path, "rb") as file:
        content = file.read()
    if len(content) < 8:
        raise Refused("too short for a header")
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(25_000_000, len(content) - 8):
        raise Refused(f"a header of {length} bytes")
    header = parse(content[8 : 8 + length].decode())
    try:
        manifest = parse(header.pop("__metadata__")["fitment"])
    except (KeyError, TypeError):
        raise Refused("not a Fitment file") from None
    if not re.fullmatch(r"1\.[0-9]{1,5}(-draft)?", manifest["fitment"]):
        raise Refused(f"format version {manifest['fitment']}")
    if not FEATURES.issuperset(manifest["requires"]):
        raise Refused(f"requires {set(manifest['requires']) - FEATURES}")
    data = memoryview(content)[8 + length :]
    tensors = {name: Tensor(entry, data) for name, entry in header.items()}
    if manifest["tensors"] != {name: tensor.digest(name) for name, tensor in tensors.items()}:
        raise Refused("a tensor has another digest")
    if manifest["id"] != content_id(manifest):
        raise Refused("another content id")
    return manifest, tensors


def content_id(manifest):
    """Section 7.2."""
    digest = hashlib.sha256(b"fitment1.content\n")
    used = {name for edit in manifest["edits"] if edit["kind"] != "bits" for name in edit.get("tensors", {}).values()}
    for name in sorted(used, key=str.encode):
        digest.update(bytes.fromhex(manifest["tensors"][name]))
    edits = [{key: edit[key] for key in ("kind", "tensors", *FUNCTION) if key in edit} for edit in manifest["edits"]]
    digest.update(canonical({"edits": edits}).encode())
    return "fitment1:" + digest.hexdigest()


def dump(manifest, tensors):
    """Appendix A: the lines of the model dump."""
    yield f"fitment {quote(manifest['fitment'])}"
    yield f"id {manifest['id']}"
    yield " ".join(["requires", *manifest["requires"]])
    yield from dump_base(manifest.get("base", {}), tensors)
    for index, edit in enumerate(manifest["edits"]):
        yield from dump_edit(index, edit, tensors)
    if "source" in manifest:
        yield from dump_source(manifest["source"], tensors)
    about, fields = manifest.get("about", {}), ["title", "description", "license", "triggers", "tags"]
    yield from line("about", about, fields)
    yield from entries("about.extra", unknown(about, fields))
    known = ["fitment", "requires", "id", "base", "edits", "tensors", "source", "about"]
    yield from entries("extra", unknown(manifest, known))


def line(head, fields, names, always=False):
    """`head` and those of the named fields that are there."""
    found = [f"{name}={canonical(fields[name])}" for name in names if name in fields]
    if found or always:
        yield " ".join([head, *found])


def entries(head, fields):
    for key in in_order(fields):
        yield f"{head} {quote(key)} {canonical(fields[key])}"


def unknown(fields, known):
    return {key: value for key, value in fields.items() if key not in known}


def dump_base(base, tensors):
    fields, names = ["name", "revision", "architecture", "layout"], "component name experts dtype shape unchanged".split()
    yield from line("base", base, fields)
    yield from entries("base.config", base.get("config", {}))
    yield from entries("base.tied", base.get("tied", {}))
    rows, at = tensors[base["digests"]].bytes if "digests" in base else b"", 0
    for entry in base.get("tensors", []):
        yield from line("base.tensor", entry, names)
        yield from entries("base.tensor.extra", unknown(entry, names))
        start, end = map(int, entry.get("experts", (0, 1)))
        for _ in range(start, end if len(rows) else start):
            yield f"base.digest {rows[at : at + 32].hex()}"
            at += 32
    yield from entries("base.extra", unknown(base, [*fields, "config", "tied", "tensors", "digests"]))


def dump_edit(index, edit, tensors):
    yield from line(f"edit {index} {edit['kind']}", edit, FUNCTION, always=True)
    stored = edit.get("tensors", {})
    for role in sorted(stored, key=str.encode):
        yield f"  {role} {tensors[stored[role]].text()}"
    origin, fields = edit.get("origin", {}), ["alpha", "rank", "rslora"]
    yield from line("  origin", origin, fields)
    yield from entries("  origin.key", origin.get("keys", {}))
    yield from entries("  origin.extra", unknown(origin, [*fields, "keys"]))
    yield from entries("  extra", unknown(edit, ["kind", "tensors", "origin", *FUNCTION]))


def dump_source(source, tensors):
    fields = ["format", "version", "weights"]
    yield from line("source", source, fields)
    for file in source.get("files", []):
        yield f"source.file {quote(file['path'])} {tensors[file['tensor']].text()}"
    for kept in source.get("kept", []):
        yield f"source.kept {quote(kept['key'])} {tensors[kept['tensor']].text()}"
    yield from entries("source.metadata", source.get("metadata", {}))
    yield from entries("source.option", source.get("options", {}))
    yield from entries("source.extra", unknown(source, [*fields, "files", "kept", "metadata", "options"]))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    try:
        print(*dump(*read(sys.argv[1])), sep="\n")
    except (Refused, ValueError) as reason:
        sys.exit(f"error: {sys.argv[1]}: {reason}")
