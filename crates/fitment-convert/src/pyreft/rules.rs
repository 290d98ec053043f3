//! What pyreft asks of a saved folder, as coded rules.

fitment_core::rule_table! {
    R_CONFIG = "R001" Error "pyreft: config" "`config.json` is a JSON object whose `representations` are lists of 8 or 10 to 14 fields, objects, or texts of the named tuple." => "Save the model again with pyreft, or leave the config out: then --formula says the class.";
    R_FILE_MISSING = "R002" Error "pyreft: files" "Every representation of the config has its `intkey_….bin`." => "Get the whole folder: an intervention is missing.";
    R_FILE_EXTRA = "R003" Warning "pyreft: files" "Every `intkey_….bin` is of a representation of the config." => "pyreft does not load such a file. It is left out.";
    R_FILE_NAME = "R004" Error "pyreft: files" "A file name says layer, component and unit, with `_` or with dots between them." => "Name the file as pyreft does, or put the folder's config.json beside it.";
    R_KEYS = "R005" Error "pyreft: tensors" "The tensors of a file are those of one of the six classes." => "The intervention is of a class of its own: convert it where that class is defined.";
    R_SHAPES = "R006" Error "pyreft: tensors" "The tensors of an intervention agree on rank and width." => "The file is damaged, or was put together from two.";
    R_RANK = "R007" Warning "pyreft: config" "The config's `low_rank_dimension` is the rank of the tensors." => "The tensors count. pyreft itself would fail to load the folder.";
    R_CLASS = "R008" Warning "pyreft: config" "The config's class is the one that the tensors are of." => "The tensors count. pyreft itself would fail to load the folder.";
    R_ORTHONORMAL = "R009" Warning "pyreft: tensors" "The columns of a rotation are orthonormal within 1e-4." => "Training was resumed after a reload, which breaks it (pyreft PR 179). The function is what it is.";
    R_UNSUPPORTED = "R010" Error "pyreft: interventions" "Interventions are of the six classes of pyreft, on whole states of single positions (`pos`, one unit, no subspaces)." => "See the message: what to do depends on what it is.";
    R_MODEL = "R011" Error "pyreft: files" "`pytorch_model.bin` is a flat dict of tensors." => "Save the folder again with pyreft, or leave the file out if nothing of the model was trained.";
    R_UNKNOWN = "R012" Warning "pyreft: tensors" "A file has no tensors beside those of its class." => "They are kept and have no effect. If the class is one of your own that uses them, the adapter computes something else.";
    R_WIDTH = "R013" Warning "pyreft: config" "The config's `intervention_dimensions` are the widths of the tensors." => "The tensors count. pyreft itself would fail to load the folder, or change other states.";
}
