//! The rules about an adapter as a whole, about its fit to a base and about servers. Those of the format itself stand in
//! `fitment_core::finding::rules`, those of foreign formats in `fitment-convert`.

fitment_core::rule_table! {
    B_MISSING = "B001" Error "6" "Every target is a tensor of the base." => "The adapter was made for another model, or names a layer that this one does not have: check --base. `fitment apply --skip GLOB` leaves targets out by name.";
    B_NAMES = "B002" Error "6" "Names are those that a loader of the base looks for." => "Loaders match names: an adapter with others loads without a word and does nothing. `fitment apply` finds the tensors by the base; for a server, export the adapter again from the class that it loads.";
    B_SHAPE = "B003" Error "6" "Edits fit the shapes of the base's tensors." => "The adapter was made for a model of another size: check --base.";
    B_TIED = "B004" Error "4.4" "An edit of a tied tensor says which of its uses it means, and adapter and base agree on what is tied." => "Convert the original with --base: the base decides which uses an edit means.";
    B_DIGEST = "B005" Error "6" "The touched tensors have the recorded SHA-256." => "The base is another revision, a fine-tune or a re-quantised copy. `--allow-base-mismatch` of apply accepts it on your word; `fitment convert FILE --base BASE` binds the adapter to it.";
    B_DTYPE = "B006" Warning "6" "The touched tensors have the recorded dtypes." => "The base was cast after the adapter was made. `--allow-base-mismatch` of apply accepts it.";
    B_CONFIG = "B007" Warning "6" "The base has the recorded architecture and config values." => "Check that the adapter was made for this base.";
    B_NAME = "B008" Note "6" "The base goes by the recorded name." => "Names are hints: digests decide. Bind the adapter if it is not: `fitment convert FILE --base BASE`.";
    B_CREATED = "B009" Error "5.2" "The base does not have the tensors that the adapter creates." => "The adapter was made for a base without this tensor (a bare model, without head): check --base. `fitment convert FILE --base BASE` mends one that was converted without a base.";
    B_VOCABULARY = "B010" Error "5.2" "Embedding, head and config agree on the size of the vocabulary." => "Tokens were added when the adapter was trained, or the base was resized since: use the base with the same tokenizer, or resize it first.";
    B_QUANTISED = "B011" Error "5" "Targets that are computed with are F64, F32, F16 or BF16." => "A sum with quantised weights would have to quantise again and lose most of the adapter: use the unquantised base.";
    B_COVERAGE = "B012" Note "6" "Which modules of the base are hit, and which are not." => "Nothing to do if this is what was trained.";
    B_PARTIAL = "B013" Warning "6" "A kind of module is hit in all its layers, or in few of them." => "Tensors may have been lost on the way: compare with the layers that were trained (layers_to_transform in PEFT).";
    B_NO_EFFECT = "B014" Error "5" "At least one edit changes something." => "The adapter is untrained, its scale is zero, or its weights were lost: check the training run that saved it.";
    B_SCALE_ZERO = "B015" Warning "5" "The scale of an edit is not zero." => "An alpha of zero switches the target off: check the config.";
    B_NO_EDITS = "B016" Note "5" "An adapter has edits." => "The file is sound and does nothing.";
    B_NO_BASE = "B017" Note "6" "The fit to a base is checked." => "Give the base: --base BASE.";
    B_UNBOUND = "B018" Note "6" "The content of the base is checked, not only its names and shapes." => "`fitment convert FILE --base BASE` records the digests of the base.";
    B_AMBIGUOUS = "B019" Error "6" "Adapter and base together say which tensor each edit changes." => "See the message: what decides it depends on the case.";
    B_SITE = "B020" Error "5.6" "The base has the sites of interventions, with states of their width." => "The adapter was made for a model of another size: check --base.";
    B_UNSAID = "B021" Warning "5.6" "Files or options say all that the adapter does." => "Say it with the options that the message names: until then nothing of the weights is checked, and `fitment convert` refuses the adapter.";
    B_BLOCKS = "B022" Note "5" "Targets are stored as plain numbers." => "`llama.cpp` adds a LoRA to quantised weights while it runs; `fitment apply` takes the unquantised base.";
    B_EXACT = "B023" Error "5.9" "A bit-exact change meets the base that it was taken from." => "It changes that very checkpoint and no other: check --base, or take the diff again with `fitment diff`.";
    B_FORM = "B024" Note "4.2" "Linear layers are fused, or apart, as the adapter has them." => "`fitment convert SRC --base BASE` fits factors to what the base has; a server takes the adapter on the model that it was trained on.";
    V_REFUSED = "V001" Error "servers: loading" "The server loads the adapter." => "`fitment convert --to peft --preset servable` writes the form that all servers load; what that loses by name, only `fitment apply` keeps: serve its result as a model.";
    V_IGNORED = "V002" Error "servers: loading" "The server uses all of the adapter." => "The server answers without a word of what it left out: `fitment apply` the adapter and serve the result, or leave out knowingly with `fitment convert --to peft --preset servable --allow-loss`.";
    V_OTHERWISE = "V003" Error "servers: arithmetic" "The server computes what the adapter says." => "`fitment convert --to peft --preset servable` folds scales and ranks into the factors, where every server reads them alike.";
    V_SETTING = "V004" Note "servers: settings" "The server's settings admit the adapter." => "Start the server with what the message names.";
    V_UNKNOWN = "V005" Error "servers: loading" "What the adapter does is known, so that it can be held against a server's rules." => "Mend the other findings first, or give what they ask for.";
}
