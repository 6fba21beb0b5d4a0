//! Names that no checkpoint has a reason to mention, because calling them runs programs, code or other files.
//!
//! Nothing that a file names is ever called here, so this list does not protect the reader. It protects the user: a
//! file that names these is an attack on whoever opens it in Python, and is refused with an error instead of being read
//! without them.

/// Modules of which every name is suspect, except for the [`HARMLESS`] ones.
const MODULES: &str = "\
    _ctypes _io _operator _pickle _posixsubprocess _socket _thread aiohttp asyncio atexit bdb \
    builtins cPickle cProfile cffi cloudpickle codeop concurrent ctypes dill distutils doctest ensurepip \
    fileinput ftplib gc http httplib idlelib imp importlib inspect io lib2to3 linecache marshal \
    multiprocessing nt operator os pdb pickle pip pkgutil posix pty pydoc requests runpy setuptools shelve \
    shutil signal smtplib socket sqlite3 ssl subprocess sys telnetlib tempfile threading timeit types urllib \
    urllib2 webbrowser xmlrpc zipimport";

/// Plain data in those modules; Python 2 has another name for `builtins`, and so has protocol 2.
const HARMLESS: &str = "\
    _io.BytesIO builtins.bool builtins.bytearray builtins.bytes builtins.complex builtins.dict builtins.float \
    builtins.frozenset builtins.int builtins.list builtins.long builtins.object builtins.range builtins.set \
    builtins.slice builtins.str builtins.tuple builtins.type builtins.unicode builtins.xrange io.BytesIO \
    types.SimpleNamespace";

/// Functions and modules of libraries that open, build or import their arguments.
const LIBRARIES: &str = "\
    code.InteractiveConsole code.InteractiveInterpreter code.interact commands.getoutput \
    commands.getstatusoutput numpy.ctypeslib numpy.distutils numpy.f2py numpy.load numpy.testing pandas.io \
    pandas.read_pickle profile.run profile.runctx torch.hub torch.jit torch.load torch.package \
    torch.serialization.load torch.utils.cpp_extension";

/// Names that run code in any module.
const FUNCTIONS: &str = "\
    delattr eval exec execfile getattr popen setattr system";

fn listed(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|known| known == word)
}

/// Whether a pickle that mentions `module.name`, or an attribute where `module` is empty, is an attempt to run
/// something in whoever loads it.
pub(super) fn is_suspect(module: &str, name: &str) -> bool {
    let module = if module == "__builtin__" { "builtins" } else { module };
    let full = format!("{module}.{name}");
    if listed(HARMLESS, &full) {
        return false;
    }
    let dunder = |part: &str| part.starts_with("__") && part.ends_with("__") && part != "__newobj__";
    let below = |library: &str| full.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let mut attributes = name.split('.').rev();
    let last = attributes.next().unwrap_or_default();
    module.split('.').next().is_some_and(|first| listed(MODULES, first))
        || listed(FUNCTIONS, last)
        // An attribute, and an attribute of one, reaches everything that a module has imported.
        || attributes.any(|part| listed(MODULES, part))
        || module.is_empty() && listed(MODULES, last)
        || name.split('.').any(dunder)
        || LIBRARIES.split_ascii_whitespace().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_something_is_suspect_and_data_is_not() {
        for full in [
            "os.system",
            "posix.system",
            "nt.system",
            "subprocess.Popen",
            "builtins.eval",
            "builtins.exec",
            "builtins.getattr",
            "builtins.__import__",
            "__builtin__.compile",
            "sys.exit",
            "importlib.import_module",
            "runpy.run_path",
            "pty.spawn",
            "webbrowser.open",
            "shutil.rmtree",
            "socket.socket",
            "pickle.loads",
            "marshal.loads",
            "types.FunctionType",
            "operator.attrgetter",
            "io.open",
            "torch.load",
            "torch.hub.load",
            "torch.serialization.load",
            "numpy.load",
            "numpy.testing._private.utils.runstring",
            "cloudpickle.cloudpickle._make_function",
            "dill._dill._create_function",
            "multiprocessing.util.spawnv_passfds",
            "asyncio.unix_events._UnixSubprocessTransport._start",
            "my.module.eval",
        ] {
            let (module, name) = full.rsplit_once('.').unwrap();
            assert!(is_suspect(module, name), "{full}");
        }
        assert!(is_suspect("torch", "os.system") && is_suspect("torch", "serialization.os.popen"));
        assert!(
            is_suspect("", "os")
                && is_suspect("", "system")
                && is_suspect("", "__dict__")
                && !is_suspect("", "_annealing_cos")
        );
        assert!(is_suspect("a", "b.__class__.__subclasses__") && is_suspect("a", "__globals__"));
        for full in [
            "argparse.Namespace",
            "numpy.dtype",
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray._reconstruct",
            "datetime.datetime",
            "pathlib.PosixPath",
            "collections.Counter",
            "__main__.Config",
            "builtins.set",
            "__builtin__.set",
            "types.SimpleNamespace",
            "torch.nn.modules.linear.Linear",
            "torch.device",
            "_codecs.encode",
            "torch.serialization._get_layout",
            "functools.partial",
            "copyreg._reconstructor",
            "copyreg.__newobj__",
            "omegaconf.dictconfig.DictConfig",
            "mypackage.os.Config",
            "torch.loading.Thing",
        ] {
            let (module, name) = full.rsplit_once('.').unwrap();
            assert!(!is_suspect(module, name), "{full}");
        }
    }
}
