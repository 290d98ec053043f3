//! A dict of tensors as a pickle of protocol 2, the one that torch writes.

use super::Class;

/// A tensor as the pickle names it.
pub(super) struct Saved<'s> {
    pub(super) name: &'s str,
    pub(super) class: Class,
    pub(super) dims: &'s [u64],
    pub(super) column_major: bool,
    pub(super) storage: usize,
    pub(super) byte_len: u64,
}

/// Pairs in one SETITEMS: what Python's pickler puts there.
const BATCH: usize = 1000;

pub(super) fn write(tensors: &[Saved<'_>]) -> Vec<u8> {
    let mut out = Pickle(vec![0x80, 2, b'}']);
    for batch in tensors.chunks(BATCH) {
        out.0.push(b'(');
        for tensor in batch {
            out.text(tensor.name);
            out.tensor(tensor);
        }
        out.0.push(b'u');
    }
    out.0.push(b'.');
    out.0
}

struct Pickle(Vec<u8>);

impl Pickle {
    fn tensor(&mut self, tensor: &Saved<'_>) {
        let (maker, class, count) = match tensor.class {
            Class::Typed(name, size) => {
                ("_rebuild_tensor_v2", format!("torch\n{name}Storage\n"), tensor.byte_len / size)
            }
            Class::Untyped(_) => {
                ("_rebuild_tensor_v3", "torch.storage\nUntypedStorage\n".to_owned(), tensor.byte_len)
            }
        };
        self.global(&format!("torch._utils\n{maker}\n"));
        self.0.extend(b"((");
        self.text("storage");
        self.global(&class);
        self.text(&tensor.storage.to_string());
        self.text("cpu");
        self.int(count);
        // The storage's tuple, its persistent id, the offset of the tensor.
        self.0.extend(b"tQK\0");
        self.counts(tensor.dims);
        self.counts(&strides(tensor.dims, tensor.column_major));
        // requires_grad, and no hooks.
        self.0.push(0x89);
        self.global("collections\nOrderedDict\n");
        self.0.extend(b")R");
        if let Class::Untyped(dtype) = tensor.class {
            self.global(&format!("torch\n{dtype}\n"));
        }
        self.0.extend(b"tR");
    }

    fn global(&mut self, lines: &str) {
        self.0.push(b'c');
        self.0.extend(lines.as_bytes());
    }

    fn text(&mut self, text: &str) {
        // Names and numbers: far below 4 GiB.
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.0.push(b'X');
        self.0.extend(len.to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn counts(&mut self, counts: &[u64]) {
        self.0.push(b'(');
        for count in counts {
            self.int(*count);
        }
        self.0.push(b't');
    }

    fn int(&mut self, value: u64) {
        match (u8::try_from(value), u16::try_from(value), i32::try_from(value)) {
            (Ok(value), _, _) => self.0.extend([b'K', value]),
            (_, Ok(value), _) => {
                self.0.push(b'M');
                self.0.extend(value.to_le_bytes());
            }
            (_, _, Ok(value)) => {
                self.0.push(b'J');
                self.0.extend(value.to_le_bytes());
            }
            // LONG1, with a ninth byte so that it is not negative.
            _ => {
                self.0.extend([0x8a, 9]);
                self.0.extend(value.to_le_bytes());
                self.0.push(0);
            }
        }
    }
}

fn strides(dims: &[u64], column_major: bool) -> Vec<u64> {
    if column_major {
        return vec![1, dims.first().copied().unwrap_or(1)];
    }
    let mut strides = vec![1u64; dims.len()];
    let mut step = 1u64;
    for (stride, dim) in strides.iter_mut().zip(dims).rev() {
        *stride = step;
        // A shape of zero elements may have extents of any size beside it.
        step = step.saturating_mul((*dim).max(1));
    }
    strides
}
