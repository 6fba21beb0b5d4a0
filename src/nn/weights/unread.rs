//! Tensors and arrays of unsupported kinds, and the call in Python that converts each to a supported one.

/// The Python constructor of such a tensor; its kind; the conversion.
const KINDS: [(&str, &str, &str); 13] = [
    ("torch._utils._rebuild_sparse", "a sparse tensor", "save it with .to_dense() in PyTorch"),
    (
        "torch._utils._rebuild_qtensor",
        "a quantised tensor",
        "save the network before it is quantised, or with .dequantize()",
    ),
    (
        "torch._utils._rebuild_meta",
        "a tensor of the meta device, which has no elements",
        "load the weights before the network is saved",
    ),
    ("torch._utils._rebuild_nested", "a nested tensor", "save it with .to_padded_tensor(0.0) in PyTorch"),
    (
        "torch._utils._rebuild_tensor_v3",
        "a tensor of 8-bit floats or another new type",
        "save it with .float() in PyTorch",
    ),
    ("torch._utils._rebuild", "a tensor of another kind", "save it with .cpu().contiguous() in PyTorch"),
    ("torch._tensor._rebuild", "a tensor of another class", "save it with .as_subclass(torch.Tensor) in PyTorch"),
    ("torch.Complex", "a tensor of complex numbers", "save torch.view_as_real of it in PyTorch"),
    ("torch.Q", "a quantised tensor", "save the network before it is quantised, or with .dequantize()"),
    ("torch.nn.", "a whole module", "save model.state_dict() with torch.save in the place where its code is"),
    ("torch.storage.", "bytes that torch.load is to read", "save model.state_dict() with torch.save"),
    (
        "numpy.",
        "a NumPy array",
        "save {name: torch.from_numpy(array) for name, array in ...} with torch.save, or use safetensors.numpy.save_file",
    ),
    ("jax", "an array of JAX", "save it with safetensors.flax.save_file"),
];

/// The kind of tensor or array that `class` constructs, if it is one, and how to convert it.
pub(super) fn unread_kind(class: &str) -> Option<(&'static str, &'static str)> {
    let scalar =
        class.starts_with("numpy.") && !["._reconstruct", "._frombuffer"].iter().any(|end| class.ends_with(end));
    KINDS.iter().find(|(start, ..)| class.starts_with(start) && !scalar).map(|&(_, what, help)| (what, help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_told_from_scalars_and_each_kind_has_its_call() {
        let what = |class: &str| unread_kind(class).map(|(what, _)| what);
        assert_eq!(what("numpy._core.multiarray._reconstruct"), Some("a NumPy array"));
        assert_eq!(what("numpy.core.multiarray.scalar"), None);
        assert_eq!(what("numpy.random._pickle.__randomstate_ctor"), None);
        assert_eq!(what("argparse.Namespace"), None);
        assert_eq!(what("torch._utils._rebuild_sparse_csr_tensor"), Some("a sparse tensor"));
        assert_eq!(what("torch.ComplexFloatStorage"), Some("a tensor of complex numbers"));
        assert!(unread_kind("torch._utils._rebuild_tensor_v3").is_some_and(|(_, help)| help.contains(".float()")));
    }
}
