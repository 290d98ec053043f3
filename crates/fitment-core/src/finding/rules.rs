//! The rules of the format itself. Rules of foreign formats and of the fit to a base stand in `fitment-validate`.

use super::{Code, Severity};

/// One rule: its stable code and what a user needs to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Stable name.
    pub code: Code,
    /// Severity of its findings, unless the caller changes it.
    pub severity: Severity,
    /// What the rule asks, in one sentence.
    pub meaning: &'static str,
    /// Where the spec says so.
    pub section: &'static str,
    /// What to do about a breach.
    pub remedy: &'static str,
}

/// A table of rules: a constant for each, and all of them as `ALL`.
///
/// A line is `NAME = "CODE" Severity "section" "meaning" => "remedy";`.
#[macro_export]
macro_rules! rule_table {
    ($($name:ident = $code:literal $severity:ident $section:literal $meaning:literal => $remedy:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $name: $crate::finding::Rule = $crate::finding::Rule {
                code: $crate::finding::Code($code),
                severity: $crate::finding::Severity::$severity,
                meaning: $meaning,
                section: $section,
                remedy: $remedy,
            };
        )*
        /// Every rule of this table, in order of its code.
        pub const ALL: &[$crate::finding::Rule] = &[$($name,)*];
    };
}

rule_table! {
    C_TRUNCATED_HEADER = "C001" Error "2.1" "The file is long enough for its header." => "The file is cut short or is not safetensors: fetch or export it again.";
    C_HEADER_LIMIT = "C002" Error "2.4" "The header is at most 25,000,000 bytes." => "Use bundles for per-expert targets, or split the adapter.";
    C_HEADER_UTF8 = "C003" Error "2.1" "The header is UTF-8." => "The file is damaged or not safetensors: fetch or export it again.";
    C_HEADER_START = "C004" Error "2.1" "The header starts with `{`." => "Re-save the file; `fitment convert` repairs a Fitment file.";
    C_HEADER_JSON = "C005" Error "2.1" "The header is one JSON object." => "The file is damaged or not safetensors: fetch or export it again.";
    C_DUPLICATE_KEY = "C006" Error "2.1" "No JSON object of the header holds a key twice." => "Two readers would see two different files: export it again with a writer that names every tensor once.";
    C_ENTRY = "C007" Error "2.1" "A tensor's header entry is exactly `dtype`, `shape`, `data_offsets`." => "Export the file again with a conforming writer.";
    C_DTYPE = "C008" Error "2.1" "The dtype is one of the container's." => "Export the file again with a dtype that safetensors 0.8 names.";
    C_SHAPE = "C009" Error "2.1" "A shape has at most 8 axes and its element count fits in 64 bits." => "The header lies about the shape: do not trust this file.";
    C_BYTES = "C010" Error "2.1" "A tensor's byte range is as long as its shape and dtype ask." => "The header lies about the shape: do not trust this file.";
    C_HOLE = "C011" Error "2.1" "Tensor data leave no hole." => "Export the file again: bytes that no tensor owns can hide another file.";
    C_OVERLAP = "C012" Error "2.1" "Tensor data do not overlap." => "Export the file again with a conforming writer.";
    C_TRUNCATED_DATA = "C013" Error "2.1" "Every tensor's data lie inside the file." => "The file is cut short: fetch or export it again.";
    C_TRAILING = "C014" Error "2.1" "Nothing follows the last tensor's data." => "Export the file again: bytes that no tensor owns can hide another file.";
    C_ALIGNMENT = "C015" Error "2.2" "Data start at a multiple of the element size; the header's length is a multiple of 8." => "`fitment convert` writes the file aligned.";
    C_PADDING = "C016" Error "2.2" "The header is padded to 8 bytes with at most seven spaces." => "`fitment convert` writes the file with canonical padding.";
    C_METADATA = "C017" Error "2.3" "`__metadata__` holds exactly the key `fitment`, one string." => "`fitment convert` repairs a file that another tool re-saved.";
    C_DATA_ORDER = "C018" Error "2.2" "Data lie in order of element bits descending, then name bytes." => "`fitment convert` writes the file in canonical order.";
    C_HEADER_ORDER = "C019" Error "2.2" "The header lists `__metadata__` first, then the tensors in data order." => "`fitment convert` writes the file in canonical order.";
    C_HEADER_FORM = "C020" Error "2.2" "The header is written in the one canonical way: no white space, shortest escapes, dtype, shape, data_offsets." => "`fitment convert` writes the header canonically.";
    C_NAME = "C021" Error "2.1" "A tensor name is 1 to 512 bytes without control characters." => "Export the file again with proper tensor names.";
    C_COUNT = "C022" Error "2.4" "A file holds at most 1,000,000 tensors." => "Use bundles, or split the adapter.";

    M_JSON = "M001" Error "3.1" "The manifest is one JSON object." => "The file was edited by hand or damaged: convert the original again.";
    M_DUPLICATE_KEY = "M002" Error "3.1" "No object of the manifest holds a key twice." => "Convert the original again.";
    M_CANONICAL = "M003" Error "3.1" "The manifest is written by RFC 8785." => "`fitment convert` writes it canonically.";
    M_FIELD = "M004" Error "3.1" "Every field has the type that the schema asks, and required fields are there." => "Convert the original again, or mend the writer against the schema.";
    M_VERSION = "M005" Error "3.2" "`fitment` is a version of format 1." => "Update fitment: the file was written by a newer format version.";
    M_REQUIRED_FEATURE = "M006" Error "3.2" "Every feature in `requires` is known to the reader." => "Update fitment: the file uses an edit kind or option that this version does not know.";
    M_REQUIRES = "M007" Error "3.2" "`requires` is the sorted set of the features that the file uses, no more and no less." => "Mend the writer; `requires` is derived, not chosen.";
    M_DEFAULT = "M008" Error "3.1" "A field that equals its default is absent." => "Mend the writer: one adapter has one byte sequence.";
    M_UNKNOWN_FIELD = "M009" Note "3.2" "Names without a dot are the spec's." => "Name an own field `vendor.example/name`; an unknown optional field is kept and not understood.";
    M_MISSING_TENSOR = "M010" Error "3.3" "Every tensor that the manifest names is stored." => "The file was edited by hand or re-saved with tensors left out: convert the original again.";
    M_ORPHAN = "M011" Error "3.3" "Every stored tensor is named by the manifest." => "The manifest alone carries meaning; a tensor that it does not name does nothing. Convert the original again.";
    M_STORED_NAME = "M012" Error "3.3" "A stored tensor is named `<label>::<n>.<kind>.<role>`." => "Mend the writer: names follow from the edits.";
    M_DIGEST_TABLE = "M013" Error "7.1" "`tensors` holds the SHA-256 of every stored tensor, 64 lower-case hexadecimal digits." => "Mend the writer.";
    M_DIGEST = "M014" Error "7.1" "A stored tensor's bytes have the recorded SHA-256." => "The tensor was changed after the file was written: fetch or convert it again.";
    M_CONTENT_ID = "M015" Error "7.2" "`id` is the content id that follows from edits and digests." => "The manifest was changed after the file was written: convert the original again.";
    M_NAME = "M016" Error "3.4" "Names are non-empty, at most 512 bytes, without control characters and without `::`." => "Mend the name.";
    M_NUMBER = "M017" Error "3.1" "Numbers are finite and inside the bounds of their field." => "Mend the value.";
    M_BASE = "M018" Error "6" "`base` lists every touched tensor once, sorted, with one digest row each when bound." => "Mend the writer, or bind the file again: `fitment convert FILE --base BASE`.";
    M_SOURCE = "M019" Error "8" "`source` keeps files under relative paths, as U8 tensors." => "Mend the writer.";
    M_CONFIG = "M020" Error "5.5" "A config edit has a key of the closed list and a value of its type, once per component." => "Only tie_word_embeddings, vocab_size, mlp_bias and attention_bias can be edited.";
    M_USES = "M021" Error "4.4" "`uses` names uses of a tied tensor, sorted, each one once; `base.tied` knows them." => "Mend the writer.";

    E_ROLE = "E001" Error "5" "An edit stores exactly the roles of its kind." => "Mend the writer.";
    E_DTYPE = "E002" Error "5" "A role has a dtype that its kind allows." => "Factors are F64, F32, F16 or BF16; row numbers and positions are I64.";
    E_RANK = "E003" Error "5.1" "Up, down and mid agree on the rank." => "Factors of different modules were mixed: export the adapter again.";
    E_SHAPE = "E004" Error "5" "The shapes of an edit's tensors fit each other, its form and the recorded base shape." => "Check that the adapter was made for this base.";
    E_EMPTY = "E005" Error "5" "A factor has no zero extent." => "DeepSpeed ZeRO-3 saves such files: gather the parameters before saving.";
    E_SLICE = "E006" Error "4.2" "A slice lists axes ascending, each with ascending disjoint ranges inside the tensor." => "Mend the writer.";
    E_BUNDLE = "E007" Error "4.3" "A target with `{e}` has an expert range that meets no other target, and its tensors a leading axis of that length." => "Mend the writer.";
    E_MAGNITUDE = "E008" Error "5.1" "A magnitude has one element per index of its kept axis." => "Check the axis: PEFT norms over the input axis, image tools often over the other.";
    E_ROWS = "E009" Error "5.2" "Row numbers are I64, strictly ascending, not negative, as many as rows of the value; those beyond the end are contiguous." => "Sort the rows and leave out repetitions.";
    E_CONFLICT = "E010" Error "4.1" "No edit of a target follows its removal, and creation comes first." => "Order the edits of the target.";
    E_EXCEPTIONS = "E011" Error "5.4" "Exceptions come as a pair: I64 positions, strictly ascending, and as many values in the target's dtype." => "Mend the writer.";
    E_NOT_FINITE = "E012" Error "5" "No stored weight is NaN or infinite." => "Training diverged or the file is damaged; such an adapter destroys every weight it touches.";
    E_NO_EFFECT = "E013" Warning "5.1" "A low-rank factor is not all zero." => "An up factor of zeros is an untrained adapter: this target does nothing.";
    E_MIXED_DTYPES = "E014" Note "5" "The factors of one adapter have one dtype." => "Harmless; some loaders cast everything to the first dtype they meet.";
    E_MAGNITUDE_SIGN = "E015" Warning "5.1" "Magnitudes are positive." => "A negative or zero magnitude flips or erases a row: check the training.";
    E_SITE = "E016" Error "5.6" "A site is a layer and a component, or a module's path that ends in `.input` or `.output`." => "Mend the writer.";
    E_POSITIONS = "E017" Error "5.6" "Positions select at least one token, in an order and a phase that can be followed." => "Mend the writer.";
    E_OVERLAP = "E018" Error "5.6" "Interventions of one site have one `overlap`." => "Interventions of different tools at one site cannot stand in one file: keep them apart.";
    E_FORMULA = "E019" Error "5.6" "An intervention has the roles that its flags speak of, and does something." => "Mend the writer.";
    E_ORTHONORMAL = "E020" Error "5.6" "The columns of `up` are orthonormal within 1e-4 where the flag says so." => "Rebuild the rotation from its parametrisation; `original` alone is not it.";
    E_ROUNDING = "E021" Error "5.6" "A class's rounding goes with the roles, dtypes and flags of that class." => "Mend the writer; `f32` goes with everything.";
    E_ORDER = "E022" Error "4.1" "Interventions come after all other edits." => "Mend the writer: interventions see the edited model.";
    E_WHEN = "E023" Error "4.5" "`when` stands where an edit can act for a time." => "Mend the writer.";
    E_SPARSE = "E024" Error "5.7" "Positions are U32 or I64, strictly ascending, inside the target, and as many as values." => "Sort the positions, each once, and take the shape of the tensor that they were taken from.";
    E_BITS = "E025" Error "5.9" "A bit-exact change is the only edit of a whole tensor whose dtype and shape the base records, and has the digests of both ends." => "Make the diff again with `fitment diff`.";
    E_PAYLOAD = "E026" Error "5.9" "A payload has a known layout, a table and frames that go with the tensor." => "The file is damaged or lies: fetch it again, or make the diff again.";
}
