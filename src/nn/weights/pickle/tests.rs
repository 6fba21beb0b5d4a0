//! Hand-made pickles: those that are read, those that are refused, and broken ones.

use proptest::prelude::*;
use safetensors::tensor::Dtype;

use super::*;
use crate::nn::weights::checkpoint::Checkpoint;

/// `parts` between PROTO 2 and STOP.
fn pickle(parts: &[&[u8]]) -> Vec<u8> {
    [b"\x80\x02", &parts.concat()[..], b"."].concat()
}

fn read(bytes: &[u8]) -> Result<Pickle<'_>, Flaw> {
    Pickle::read(bytes, 0)
}

fn damage(parts: &[&[u8]]) -> (usize, String) {
    match read(&pickle(parts)).and_then(|pickle| Checkpoint::find(&pickle).map(|_| ())) {
        Err(Flaw::Damaged { at, what }) => (at, what),
        other => panic!("{other:?}"),
    }
}

fn refusal(parts: &[&[u8]]) -> (usize, String) {
    match read(&pickle(parts)) {
        Err(Flaw::Refused { at, what }) => (at, what),
        other => panic!("{other:?}"),
    }
}

fn suspect(parts: &[&[u8]]) -> (usize, String) {
    match read(&pickle(parts)) {
        Err(Flaw::Suspect { at, what }) => (at, what),
        other => panic!("{other:?}"),
    }
}

/// `{"w": tensor}` of six floats, with these pickled offset, shape and strides.
fn dict_of_tensor(offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    [
        b"}U\x01w".as_slice(),
        b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x01kU\x03cpuK\x06tQ",
        offset,
        shape,
        strides,
        b"\x89}tRs",
    ]
    .concat()
}

#[test]
fn integers_have_their_sign_and_long_ones_their_bytes() {
    let root = |parts: &[&[u8]]| format!("{:?}", read(&pickle(parts)).unwrap().root());
    assert_eq!(root(&[b"K\xff"]), "Int(255)");
    assert_eq!(root(&[b"M\xff\xff"]), "Int(65535)");
    assert_eq!(root(&[b"J\xfe\xff\xff\xff"]), "Int(-2)");
    assert_eq!(root(&[b"\x8a\x00"]), "Int(0)");
    assert_eq!(root(&[b"\x8a\x01\x80"]), "Int(-128)");
    assert_eq!(root(&[b"\x8a\x02\x80\x00"]), "Int(128)");
    assert_eq!(root(&[b"\x8b\x09\x00\x00\x00123456789"]), "Long([49, 50, 51, 52, 53, 54, 55, 56, 57])");
}

#[test]
fn the_opcodes_of_protocol_5_are_read_like_those_of_protocol_2() {
    let bytes = b"\x80\x05\x95\x10\0\0\0\0\0\0\0\x8c\x01a\x94]\x94(K\x01h\0\x88\x89NG\0\0\0\0\0\0\0\0C\x01xea\x85.";
    // APPEND onto a whole list: below it is the string.
    let error = read(bytes).unwrap_err();
    assert_eq!(error, Flaw::Damaged { at: 38, what: "appending to a string".to_owned() });
    let bytes = b"\x80\x05\x95\x10\0\0\0\0\0\0\0\x8c\x01a\x94]\x94(K\x01h\0\x88\x89NG\0\0\0\0\0\0\0\0C\x01xe\x86.";
    let pickle = read(bytes).unwrap();
    let Value::Tuple(parts) = pickle.root() else { panic!() };
    assert!(matches!(pickle.get(parts[0]), Value::Text("a")));
    let Value::List(items) = pickle.get(parts[1]) else { panic!() };
    let kinds: Vec<&str> = items.iter().map(|&item| pickle.get(item).kind()).collect();
    assert_eq!(kinds, ["int", "string", "bool", "bool", "None", "float", "bytes"]);
    assert_eq!(pickle.end, bytes.len());
}

#[test]
fn names_and_opcodes_of_other_things_are_refused_with_their_place() {
    let text = |what: &str| what.to_owned();
    assert_eq!(suspect(&[b"N", b"cposix\nsystem\n"]), (3, text("posix.system")));
    assert_eq!(suspect(&[b"U\x02osU\x06system\x93"]), (14, text("os.system")));
    assert_eq!(suspect(&[b"cbuiltins\ngetattr\n"]), (2, text("builtins.getattr")));
    assert_eq!(suspect(&[b"ctorch\nload\n"]), (2, text("torch.load")));
    assert_eq!(suspect(&[b"ca\x1b[2J\neval\n"]), (2, text("a\\u{1b}[2J.eval")));
    for (opcode, name) in [
        (b'i', "opcode INST"),
        (b'o', "opcode OBJ"),
        (b'\x82', "opcode EXT1"),
        (b'P', "opcode PERSID"),
        (b'2', "opcode DUP"),
        (0xff, "opcode 0xff"),
    ] {
        assert_eq!(refusal(&[b"N", &[opcode]]), (3, text(name)));
    }
    assert_eq!(refusal(&[b"]}b"]), (4, text("BUILD on a list")));
    assert_eq!(refusal(&[b"(U\x06moduleNNtQ"]), (14, text("the source code of a module")));
}

#[test]
fn other_names_and_what_is_made_with_them_are_opaque() {
    let kind = |parts: &[&[u8]]| {
        let bytes = pickle(parts);
        let pickle = read(&bytes).unwrap();
        pickle.kind(pickle.root_id())
    };
    let namespace = b"cargparse\nNamespace\n".as_slice();
    assert_eq!(kind(&[namespace]), "class");
    for made in [
        b")\x81".as_slice(),
        b")\x81}U\x02lrK\x01sb",
        b")}\x92",
        b")R",
        b")RK\x01K\x02sK\x01a(K\x01K\x02e(K\x01K\x02u",
        b")R)R",
    ] {
        assert_eq!(kind(&[namespace, made]), "argparse.Namespace", "{made:?}");
    }
    assert_eq!(kind(&[b"\x8f(K\x01K\x02\x90"]), "set");
    assert_eq!(kind(&[b"(K\x01\x91"]), "set");
    assert_eq!(kind(&[b"NK\x010"]), "None");
    assert_eq!(kind(&[b"N(K\x01K\x021"]), "None");
    assert_eq!(kind(&[b"\x96\x02\0\0\0\0\0\0\0ab"]), "bytes");
    assert_eq!(kind(&[b"ccollections\ndefaultdict\nc__builtin__\nint\n\x85RU\x01aK\x01s"]), "dict");
    assert_eq!(refusal(&[b"ctorch\nSize\n)\x81"]).1, "an object of a class");
    assert_eq!(refusal(&[b"N)\x81"]).1, "an object of a None");
    assert_eq!(damage(&[b"N(K\x01\x90"]).1, "adding to a None");
}

#[test]
fn attributes_of_opaque_values_are_opaque_and_the_way_to_a_module_is_refused() {
    let getattr = b"cbuiltins\ngetattr\n".as_slice();
    let method = [getattr, b"ctorch.optim.lr_scheduler\nOneCycleLR\n)\x81U\x0e_annealing_cos\x86R"].concat();
    let member = [getattr, b"cmy.package\nColour\nU\x03RED\x86R"].concat();
    for made in [&method, &member] {
        let bytes = pickle(&[made]);
        let pickle = read(&bytes).unwrap();
        assert!(matches!(pickle.root(), Value::Opaque(_)));
    }
    for arguments in [
        b"ctorch\nserialization\nU\x02os\x86".as_slice(),
        b"ctorch\nserialization\nU\x08__dict__\x86",
        b"U\x01aU\x01b\x86",
        b"carg\nA\nK\x01\x86",
    ] {
        assert_eq!(suspect(&[getattr, arguments, b"R"]).1, "builtins.getattr");
    }
}

#[test]
fn a_tensor_with_attributes_is_a_tensor_and_one_of_another_class_is_not() {
    let tensor = |class: &[u8]| {
        let storage = b"(U\x07storagectorch\nFloatStorage\nU\x01kU\x03cpuK\x06tQ".as_slice();
        let arguments = [b"(".as_slice(), storage, b"K\0K\x01\x85K\x01\x85\x89}t"].concat();
        let function = b"ctorch._utils\n_rebuild_tensor_v2\n".as_slice();
        pickle(&[b"}U\x01wctorch._tensor\n_rebuild_from_type_v2\n(", function, class, &arguments, b"}tRs"])
    };
    let bytes = tensor(b"ctorch\nTensor\n");
    let pickle = read(&bytes).unwrap();
    assert_eq!(Checkpoint::find(&pickle).unwrap().sets[0].tensors[0].layout.shape, [1]);
    let bytes = tensor(b"cmy\nQuantised\n");
    let pickle = read(&bytes).unwrap();
    assert!(Checkpoint::find(&pickle).unwrap().sets.is_empty());
}

#[test]
fn a_tensor_that_is_made_of_an_opaque_value_is_one() {
    let storage = b"(U\x07storagectorch\nComplexFloatStorage\nU\x01kU\x03cpuK\x06tQ".as_slice();
    let tensor =
        [b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(), storage, b"K\0K\x01\x85K\x01\x85\x89}tR"].concat();
    let parameter = [b"ctorch._utils\n_rebuild_parameter\n(".as_slice(), &tensor, b"\x89}tR"].concat();
    for made in [&tensor, &parameter] {
        let bytes = pickle(&[b"}U\x01w", made, b"s"]);
        let pickle = read(&bytes).unwrap();
        let checkpoint = Checkpoint::find(&pickle).unwrap();
        assert_eq!(pickle.foreign_storage().as_deref(), Some("torch.ComplexFloatStorage"));
        assert!(checkpoint.sets[0].tensors.is_empty());
        assert_eq!(checkpoint.sets[0].unread[0].class, "torch.ComplexFloatStorage");
    }
}

#[test]
fn only_functions_of_the_list_are_called() {
    for callee in [b"ctorch\nFloatStorage\n".as_slice(), b"ctorch\nfloat32\n"] {
        let (at, what) = damage(&[callee, b")R"]);
        assert_eq!(at, 3 + callee.len());
        assert!(what.ends_with("is called with 0 arguments"), "{what}");
    }
    assert_eq!(damage(&[b"U\x01a)R"]).1, "REDUCE calls a string, expected a name");
    assert_eq!(damage(&[b"ccollections\nOrderedDict\n]R"]).1, "REDUCE without a tuple of arguments");
    assert_eq!(
        damage(&[b"ctorch._utils\n_rebuild_tensor\n(NNNNtR"]).1,
        "a tensor is built of a None, expected a storage"
    );
    assert_eq!(
        damage(&[b"ctorch._utils\n_rebuild_parameter\n(NNNtR"]).1,
        "a parameter is built of a None, expected a tensor"
    );
}

#[test]
fn broken_pickles_are_told_with_their_place() {
    let text = |what: &str| what.to_owned();
    assert_eq!(damage(&[b"h\x07"]), (2, text("memo 7 is read and was never written")));
    assert_eq!(damage(&[b"j\x07\0\0\x01"]), (2, text("memo 16777223 is read and was never written")));
    assert_eq!(damage(&[b"NK\x01K\x02s"]), (7, text("setting items of a None")));
    assert_eq!(damage(&[b"}K\x01a"]), (5, text("appending to a dict")));
    assert_eq!(damage(&[b"X\xff\xff\xff\xff"]), (2, text("4294967295 bytes expected, the pickle ends after 1")));
    assert_eq!(damage(&[b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff"]).0, 2);
    assert_eq!(damage(&[b"\x95\x02\0\0\0\0\0\0\0"]).1, "a frame of 2 bytes, of which 1 are there");
    assert_eq!(damage(&[b"t"]), (2, text("no mark is on the stack")));
    assert_eq!(damage(&[b"N(\x85"]), (4, text("nothing is on the stack")));
    assert_eq!(damage(&[b"N(."]), (4, text("nothing is on the stack")));
    assert_eq!(damage(&[b"cposix"]), (2, text("a name without an end")));
    assert_eq!(damage(&[b"X\x01\0\0\0\xff"]), (2, text("a string that is not UTF-8")));
    assert_eq!(damage(&[b"}(K\x01u"]), (6, text("a key without a value")));
    assert_eq!(
        read(b"\x80\x06N.").unwrap_err(),
        Flaw::Damaged { at: 0, what: text("pickle protocol 6, expected 2 to 5") }
    );
}

#[test]
fn a_tensor_lies_within_its_storage() {
    let found = |offset: &[u8], shape: &[u8], strides: &[u8]| {
        let bytes = pickle(&[&dict_of_tensor(offset, shape, strides)]);
        let pickle = Pickle::read(&bytes, 0).unwrap();
        Checkpoint::find(&pickle).map(|checkpoint| checkpoint.sets[0].tensors[0].layout.clone()).map_err(|flaw| {
            match flaw {
                Flaw::Damaged { what, .. } => what,
                Flaw::Refused { what, .. } | Flaw::Suspect { what, .. } => what,
            }
        })
    };
    let layout = found(b"K\x01", b"K\x02K\x02\x86", b"K\x03K\x01\x86").unwrap();
    assert_eq!((layout.offset, layout.shape, layout.strides), (1, vec![2, 2], vec![3, 1]));
    let max = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let twice = [&max[..], max, b"\x86"].concat();
    let reaches = "tensor \"w\": its last element is number 6 of a storage of 6 elements (counted from 0)";
    assert_eq!(found(b"K\x02", b"K\x02K\x02\x86", b"K\x03K\x01\x86").unwrap_err(), reaches);
    for (offset, shape, strides, what) in [
        (&b"J\xff\xff\xff\xff"[..], &b"K\x01\x85"[..], &b"K\x01\x85"[..], "its offset is not a count"),
        (b"K\0", b"J\xff\xff\xff\xff\x85", b"K\x01\x85", "its shape is not made of counts"),
        (b"K\0", b"K\x02\x85", b"J\xff\xff\xff\xff\x85", "its strides is not made of counts"),
        (b"K\0", b"K\x02\x85", b")", "1 axes and 0 strides"),
        (b"K\0", b"N", b")", "its shape is a None, expected a tuple"),
        (b"K\0", b"(NNNNNNNNNNNNNNNNNt", b")", "its shape has 17 axes, expected at most 16"),
        (b"K\0", &twice, b"K\0K\0\x86", "overflows"),
        (b"K\0", b"K\x09K\x09\x86", &twice, "overflows"),
        (max, &[&max[..], b"\x85"].concat(), b"K\x02\x85", "overflows"),
    ] {
        let error = found(offset, shape, strides).unwrap_err();
        assert!(error.starts_with("tensor \"w\": ") && error.contains(what), "{error}");
    }
}

#[test]
fn a_storage_has_a_type_a_key_and_a_size() {
    let storage = |body: &[u8]| damage(&[b"(", body, b"tQ"]).1;
    let parts = "a persistent id is not (\"storage\", class, key, location, elements)";
    assert_eq!(storage(b"U\x07storage"), parts);
    assert_eq!(storage(b"U\x07storageNU\x01kU\x03cpuK\x06"), parts);
    assert_eq!(storage(b"U\x07storagectorch\nSize\nU\x01kU\x03cpuK\x06"), parts);
    let named = |rest: &[u8]| storage(&[b"U\x07storagectorch\nFloatStorage\nU\x01kU\x03cpu", rest].concat());
    assert_eq!(named(b"J\xff\xff\xff\xff"), "the size of storage \"k\" is not a count of elements");
    assert_eq!(named(b"K\x06NN"), "a storage has more than six parts");
    assert_eq!(named(b"K\x06U\x01vK\x05K\x02\x87"), "a view of 2 elements from 5 reaches past storage \"k\" of 6");
    assert_eq!(named(b"K\x06K\x05K\x01\x86"), "a view of a storage is not (key, offset, elements)");
    assert_eq!(damage(&[b"NQ"]).1, "a persistent id is a None, expected a tuple");
    let bytes = pickle(&[b"(U\x07storagectorch.cuda\nHalfStorage\nU\x01kU\x06cuda:0K\x06tQ"]);
    let pickle = read(&bytes).unwrap();
    assert_eq!(
        pickle.storages().collect::<Vec<_>>(),
        [StorageName { key: "k", dtype: Dtype::F16, count: 6, view: None }]
    );
}

#[test]
fn the_last_value_of_a_key_holds_in_the_place_of_the_first() {
    let entry = |name: u8, rows: u8| {
        let mut entry = dict_of_tensor(b"K\0", &[b'K', rows, 0x85], b"K\x01\x85");
        entry[3] = name;
        entry.remove(0);
        entry
    };
    let bytes = pickle(&[b"}", &entry(b'a', 1), &entry(b'b', 2), &entry(b'a', 3)]);
    let pickle = read(&bytes).unwrap();
    let found: Vec<_> =
        Checkpoint::find(&pickle).unwrap().sets[0].tensors.iter().map(|t| (t.name, t.layout.shape.clone())).collect();
    assert_eq!(found, [("a", vec![3]), ("b", vec![2])]);
}

#[test]
fn a_million_levels_and_a_dict_that_holds_itself_are_no_trouble() {
    let mut deep = vec![b'N'];
    deep.resize(1_000_000, b'\x85');
    assert!(matches!(read(&pickle(&[&deep])).unwrap().root(), Value::Tuple(_)));
    let bytes = pickle(&[b"}q\0U\x0astate_dicth\0sU\x05modelh\0s"]);
    let pickle = read(&bytes).unwrap();
    let checkpoint = Checkpoint::find(&pickle).unwrap();
    assert!(checkpoint.sets.is_empty());
    assert_eq!(checkpoint.skipped.len(), 2);
}

#[test]
fn the_memory_of_a_pickle_has_a_bound() {
    assert!(size_of::<Value<'_>>() <= 32);
    let many = vec![b'}'; (1 << 22) + 1];
    let error = "more than 4194304 values, expected the description of tensors";
    assert_eq!(damage(&[&many]), (2 + many.len(), error.to_owned()));
    let memos =
        [b"N", &many[..]].concat().iter().map(|&byte| if byte == b'}' { 0x94 } else { byte }).collect::<Vec<_>>();
    assert_eq!(damage(&[&memos]).1, error);
}

#[test]
fn one_list_of_pairs_is_not_copied_over_and_over() {
    let mut bytes = b"ccollections\nOrderedDict\nq\0](".to_vec();
    (0..1000).for_each(|_| bytes.extend(b"NN\x86"));
    bytes.extend(b"e\x85q\x01");
    (0..1000).for_each(|_| bytes.extend(b"h\0h\x01R"));
    assert_eq!(damage(&[&bytes]).1, "lists of pairs are used over and over");
}

#[test]
fn arguments_may_be_used_twice() {
    let bytes = pickle(&[b"ctorch\nSize\nq\0K\x05\x85\x85q\x01Rh\0h\x01R\x86"]);
    let pickle = read(&bytes).unwrap();
    let Value::Tuple(sizes) = pickle.root() else { panic!() };
    assert!(sizes.iter().all(|&size| matches!(pickle.get(size), Value::Tuple(items) if items.len() == 1)));
}

/// The start of an opcode's bytes: supported opcodes are frequent, so that programs run for some time.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let fixed = [
        &b"N"[..],
        b"\x88",
        b"(",
        b")",
        b"\x85",
        b"\x86",
        b"\x87",
        b"t",
        b"]",
        b"a",
        b"e",
        b"}",
        b"s",
        b"u",
        b"\x94",
        b"\x93",
        b"Q",
        b"R",
        b"b",
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch\nSize\n",
        b"ctorch\nFloatStorage\n",
        b"U\x07storage",
        b"U\x0astate_dict",
        b"(U\x07storagectorch\nByteStorage\nU\x01kU\x03cpuK\x06tQ",
        b"K\x01\x85",
        b"K\x02K\x03\x86",
        b"\x81",
        b"\x8f",
        b"0",
        b"1",
        b"cargparse\nNamespace\n",
        b"cnumpy\ndtype\n",
    ];
    prop_oneof![
        8 => prop::sample::select(fixed.to_vec()).prop_map(<[u8]>::to_vec),
        1 => (0_u8..8).prop_map(|index| vec![b'h', index]),
        1 => (0_u8..8).prop_map(|index| vec![b'q', index]),
        1 => any::<i32>().prop_map(|value| [&b"J"[..], &value.to_le_bytes()].concat()),
        1 => any::<i64>().prop_map(|value| [&b"\x8a\x08"[..], &value.to_le_bytes()].concat()),
    ]
}

proptest! {
    #[test]
    fn any_program_is_read_or_refused(program in prop::collection::vec(instruction(), 0..60)) {
        let bytes = pickle(&program.iter().map(Vec::as_slice).collect::<Vec<_>>());
        if let Ok(pickle) = read(&bytes) {
            prop_assert!(pickle.values.len() <= bytes.len());
            let _ = Checkpoint::find(&pickle);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }
}
