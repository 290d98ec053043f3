//! What a torch file must keep, as coded rules.

fitment_core::rule_table! {
    T_UNSAFE = "T001" Error "torch: pickle" "A pickle names nothing but what tensors and plain containers are made of." => "Whoever loads this file with torch.load(weights_only=False) or pickle runs what it names; Fitment ran nothing. Do not load it unless you trust its maker; ask for the weights as safetensors.";
    T_PICKLE = "T002" Error "torch: pickle" "A pickle is a whole sequence of instructions, each with operands of its kind." => "The file is damaged or cut short, or was not written by torch.save: fetch it again, or save the weights as safetensors.";
    T_ARCHIVE = "T003" Error "torch: archive" "A zip archive holds stored members under one folder, each once, without gaps or overlaps, and its directory agrees with them." => "The file is damaged, cut short or was packed again: fetch it again, or save the weights as safetensors.";
    T_TENSOR = "T004" Error "torch: tensors" "Every tensor lies inside its storage, and has a dtype and device that weights can have." => "The file is damaged, or holds sparse, quantised or meta tensors: save the weights as safetensors.";
    T_KIND = "T005" Error "torch: kind" "A torch file is a zip archive with a data.pkl, or of the older form with a magic number." => "See the message: what to do depends on what the file is.";
    T_LIMIT = "T006" Error "torch: limits" "A torch file stays inside the limits on sizes, counts and depth." => "No weight file comes near these limits: save the weights as safetensors.";
    T_NAMES = "T007" Error "torch: names" "A state dict is a dict whose keys lead to tensors, each by one name." => "Save the model's state_dict() alone, best as safetensors.";
    T_CHECKSUM = "T008" Error "torch: archive" "Every member has the recorded CRC-32." => "The file is damaged: fetch it again.";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn codes_are_numbered_without_gap() {
        for (index, rule) in ALL.iter().enumerate() {
            assert_eq!(rule.code.0, format!("T{:03}", index + 1));
        }
    }
}
