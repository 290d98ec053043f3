/** The files of one adapter: path inside its folder (or its name) to bytes. */
export type AdapterFiles = Record<string, Uint8Array>;

/** What the files may not say, by the names that the command line has for it. */
export interface Said {
  /** The format, where it is not to be detected. */
  from?: string;
  /** Which adapter of a folder that holds several. */
  adapter?: string;
  /** On which tokens interventions act, such as `f7+l7`. */
  positions?: string;
  activation?: string;
  formula?: string;
  /** Alpha of LoRA factors that are saved without a config: `32`, or `rs:32`. */
  alpha?: string;
  moe_layout?: string;
  moe_b_layout?: string;
  /** Carry every other file of the folder along. */
  keep_files?: boolean;
}

export interface Format {
  name: string;
  title: string;
  what: string;
  looked_for: string;
  reads: boolean;
  writes: boolean;
  one_file: boolean;
}

export interface Finding {
  code: string;
  severity: 'error' | 'warning' | 'note';
  place: string;
  message: string;
  section: string | null;
  remedy: string | null;
}

/** One file of `fitment validate --json`. */
export interface Verdict {
  path: string;
  format: string | null;
  checked: { format: boolean; weights: boolean; base: boolean; digests: number; for: string[] };
  refusal: { message: string; hint: string | null } | null;
  findings: Finding[];
  counts: { error: number; warning: number; note: number; allowed: number };
}

export interface Loss {
  id: string;
  changes_function: boolean;
  message: string;
}

/** What calls throw: `hint` says what to do, where something can be done. */
export interface FitmentError extends Error {
  hint?: string;
  losses?: Loss[];
}

/** Loads the module; everything else may be called when it is done. */
export function load(source?: URL | Request | Response | BufferSource | WebAssembly.Module): Promise<void>;

/** Every format. */
export function formats(): Format[];

/** The name of the format that files are of. */
export function detect(files: AdapterFiles): string;

/** Every rule of the format, as findings. Files at fault are no error of this call. */
export function validate(files: AdapterFiles, options?: Said & { name?: string }): Verdict;

/** Another format of the same adapter. What would compute something else is refused, unless `allowLoss` takes it. */
export function convert(
  files: AdapterFiles,
  to: string,
  options?: Said & { allowLoss?: boolean },
): { files: AdapterFiles; losses: Loss[] };
