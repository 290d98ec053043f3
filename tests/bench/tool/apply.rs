//! The bare libraries, without the command line around them.

use fitment_apply::{Input, Options, Plan, execute};
use fitment_core::checkpoint::OutputTensor;
use fitment_io::{Access, AdapterFiles, CheckpointDir, CheckpointOutput, ConfigEdit, OutputOptions};
use std::error::Error;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Applies a Fitment file to a base.
pub(crate) fn run(base: &Path, adapter: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let begin = std::time::Instant::now();
    let lap = |what: &str| {
        if std::env::var_os("BENCH_LAPS").is_some() {
            eprintln!("{:8.3} s {what}", begin.elapsed().as_secs_f64());
        }
    };
    let files = AdapterFiles::load(adapter)?;
    let model = fitment_core::read(files.single().ok_or("not a file")?)?;
    lap("adapter read");
    let base = CheckpointDir::open(base, Access::Map)?;
    let inputs = [Input { adapter: &model, weight: 1.0, name: adapter.display().to_string() }];
    let plan = Plan::new(&inputs, &base, &Options::default())?;
    lap("planned");
    let tensors: Vec<&OutputTensor> = plan.tensors().collect();
    let config: Vec<ConfigEdit> =
        plan.config.iter().map(|change| (change.path.clone(), change.to.clone())).collect();
    let options = OutputOptions { inputs: vec![adapter.to_owned()], ..OutputOptions::default() };
    let output = CheckpointOutput::create(&base, out, (&tensors, &config), &options)?;
    lap("output prepared");
    execute(&plan, &base, &output, &|_| {}, &AtomicBool::new(false))?;
    lap("executed");
    output.finish()?;
    lap("durable");
    Ok(())
}
