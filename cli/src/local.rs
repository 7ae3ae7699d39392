//! What needs no cluster: checking and packing, and the part of installing that happens here.

use crate::author::author;
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{check as text, cluster::planned, json};
use api::v1::InstallRequest;
use module::{ConfigError, Configuration, Notice, PACKAGE_BYTES_MAX, Package, PackageError};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What a check found, beyond the errors that end it.
pub(crate) struct Checked {
    /// The file that places in the notices refer to.
    pub(crate) file: PathBuf,
    pub(crate) configuration: Configuration,
    pub(crate) notices: Vec<Notice>,
    /// Scripts of a package; `None` for a bare configuration.
    pub(crate) scripts: Option<Vec<String>>,
}

/// `module check`: a configuration, a package or a directory.
pub(crate) fn check(file: &Path, output: &Output) -> Result<u8, Failure> {
    let is_configuration =
        !file.is_dir() && file.extension().is_some_and(|extension| extension == "xml");
    let checked = if is_configuration {
        let bytes = read(file)?;
        let text = String::from_utf8(bytes)
            .map_err(|error| wrong(file, PackageError::NotUtf8(error.utf8_error())))?;
        let (configuration, notices) =
            Configuration::parse(&text).map_err(|error| at(file.to_owned(), error))?;
        Checked {
            file: file.to_owned(),
            configuration,
            notices,
            scripts: None,
        }
    } else {
        let package = Package::read(&package_bytes(file)?).map_err(|error| wrong(file, error))?;
        Checked {
            file: configuration_of(file),
            configuration: package.configuration().clone(),
            notices: package.notices().to_vec(),
            scripts: Some(package.scripts().map(str::to_owned).collect()),
        }
    };
    output.answer(
        || json::checked(file, &checked),
        || text::checked(file, &checked),
    )
}

/// `module pack`.
pub(crate) fn pack(
    directory: &Path,
    to: Option<&Path>,
    is_dry_run: bool,
    output: &Output,
) -> Result<u8, Failure> {
    if !directory.is_dir() {
        return Err(Failure::Usage {
            what: format!("{} is not a directory", directory.display()),
            next: String::new(),
        });
    }
    let bytes = package_bytes(directory)?;
    let package = Package::read(&bytes).map_err(|error| wrong(directory, error))?;
    let to = match to {
        Some(to) => to.to_owned(),
        None => PathBuf::from(format!("{}.safe", stem(directory)?)),
    };
    if is_dry_run {
        let plan = pack_plan(&to, bytes.len(), &package.hash());
        return output.answer(|| json::planned(&plan), || planned(&plan));
    }
    write(&to, &bytes).map_err(|source| Failure::Io {
        action: "write",
        path: to.clone(),
        source,
    })?;
    output.answer(
        || json::packed(&to, bytes.len(), &package.hash()),
        || text::packed(&to, bytes.len(), &package.hash()),
    )
}

fn pack_plan(to: &Path, bytes: usize, hash: &[u8; 32]) -> Vec<String> {
    let risk = if to.exists() {
        format!("risk: {} is there and is replaced", to.display())
    } else {
        "risk: none seen".to_owned()
    };
    let plan = format!(
        "would be: {} with {bytes} bytes, package {}",
        to.display(),
        text::hex(hash)
    );
    vec![plan, risk]
}

/// Written beside and renamed: a package is whole or not there.
fn write(to: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = to
        .file_name()
        .map(ToOwned::to_owned)
        .ok_or(io::ErrorKind::InvalidInput)?;
    name.push(format!(".{}.new", std::process::id()));
    let fresh = to.with_file_name(name);
    let written = File::create_new(&fresh)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    let renamed = written.and_then(|()| fs::rename(&fresh, to));
    if renamed.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&fresh);
    }
    renamed
}

/// The request that installs `file`, which has been checked.
pub(crate) fn install(
    file: &Path,
    name: Option<&str>,
    servers: &[String],
    dry_run: bool,
) -> Result<InstallRequest, Failure> {
    let module = match name {
        Some(name) => name.to_owned(),
        None => stem(file)?,
    };
    let bytes = package_bytes(file)?;
    Package::read(&bytes).map_err(|error| wrong(file, error))?;
    Ok(InstallRequest {
        module,
        package: bytes.into(),
        servers: servers.to_vec(),
        dry_run,
        author: author(),
    })
}

/// The name of a module when none is given: that of its file or directory.
fn stem(file: &Path) -> Result<String, Failure> {
    let real = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let stem = if real.is_dir() {
        real.file_name()
    } else {
        real.file_stem()
    };
    let name = stem
        .and_then(|stem| stem.to_str())
        .unwrap_or_default()
        .to_owned();
    crate::args::module_name(&name).map_err(|expected| Failure::Usage {
        what: format!("\"{name}\" cannot be the name of a module: {expected}"),
        next: "repeat the command with -m NAME".to_owned(),
    })
}

/// The bytes of a package, packed first when it is a directory.
fn package_bytes(file: &Path) -> Result<Vec<u8>, Failure> {
    if file.is_dir() {
        Package::pack(file).map_err(|error| wrong(file, error))
    } else {
        read(file)
    }
}

/// One byte more than allowed is enough to see that a file is too large.
fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = PACKAGE_BYTES_MAX as u64 + 1;
    let opened = File::open(file).and_then(|opened| opened.take(limit).read_to_end(&mut bytes));
    opened.map_err(|source| Failure::Io {
        action: "read",
        path: file.to_owned(),
        source,
    })?;
    Ok(bytes)
}

/// Where the configuration of a directory or package stands.
fn configuration_of(file: &Path) -> PathBuf {
    file.join("conf/userconfig.xml")
}

fn at(file: PathBuf, error: ConfigError) -> Failure {
    Failure::Configuration {
        file,
        error: Box::new(error),
    }
}

fn wrong(file: &Path, error: PackageError) -> Failure {
    match error {
        PackageError::Configuration(error) => at(configuration_of(file), error),
        error => Failure::Package {
            file: file.to_owned(),
            error: Box::new(error),
        },
    }
}
