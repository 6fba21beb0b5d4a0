//! Names of the same tensor in different libraries.
//!
//! ResNets have the same names in torchvision, timm and Cadene's pretrainedmodels except for the classifier, which is
//! not needed here; BN-Inception comes from Cadene alone. Vision transformers differ, and this program uses timm's
//! names.

/// Where torchvision and timm name the parts of a transformer block differently.
const BLOCK: [(&str, &str); 9] = [
    ("ln_1.", "norm1."),
    ("ln_2.", "norm2."),
    ("self_attention.in_proj_weight", "attn.qkv.weight"),
    ("self_attention.in_proj_bias", "attn.qkv.bias"),
    ("self_attention.out_proj.", "attn.proj."),
    ("mlp.linear_1.", "mlp.fc1."),
    ("mlp.linear_2.", "mlp.fc2."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.3.", "mlp.fc2."),
];

/// The same outside the blocks.
const TRUNK: [(&str, &str); 5] = [
    ("class_token", "cls_token"),
    ("conv_proj.", "patch_embed.proj."),
    ("encoder.pos_embedding", "pos_embed"),
    ("encoder.ln.", "norm."),
    ("heads.head.", "head."),
];

/// timm's name for a tensor of torchvision's vision transformer; none if `name` is not such a tensor.
pub(in crate::nn) fn timm_name(name: &str) -> Option<String> {
    let renamed = |name: &str, table: &[(&str, &str)]| {
        table.iter().find_map(|(theirs, ours)| name.strip_prefix(theirs).map(|rest| format!("{ours}{rest}")))
    };
    match name.strip_prefix("encoder.layers.encoder_layer_") {
        Some(block) => {
            let (number, part) = block.split_once('.')?;
            Some(format!("blocks.{number}.{}", renamed(part, &BLOCK)?))
        }
        None => renamed(name, &TRUNK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vision_transformer_of_torchvision_gets_the_names_of_timm() {
        for (theirs, ours) in [
            ("class_token", Some("cls_token")),
            ("conv_proj.bias", Some("patch_embed.proj.bias")),
            ("encoder.pos_embedding", Some("pos_embed")),
            ("encoder.layers.encoder_layer_11.ln_2.bias", Some("blocks.11.norm2.bias")),
            ("encoder.layers.encoder_layer_0.self_attention.in_proj_weight", Some("blocks.0.attn.qkv.weight")),
            ("encoder.layers.encoder_layer_0.self_attention.out_proj.weight", Some("blocks.0.attn.proj.weight")),
            ("encoder.layers.encoder_layer_3.mlp.0.weight", Some("blocks.3.mlp.fc1.weight")),
            ("encoder.layers.encoder_layer_3.mlp.linear_2.weight", Some("blocks.3.mlp.fc2.weight")),
            ("encoder.ln.weight", Some("norm.weight")),
            ("heads.head.weight", Some("head.weight")),
            ("encoder.layers.encoder_layer_3.other.weight", None),
            ("encoder.layers.encoder_layer_3", None),
            ("layer1.0.conv1.weight", None),
        ] {
            assert_eq!(timm_name(theirs).as_deref(), ours, "{theirs}");
        }
    }
}
