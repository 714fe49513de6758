//! What may be wrong with the directories of a mount: one clear line each.

use crate::errno::Errno;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a stack of layers could not be opened.
#[derive(Debug)]
pub enum LayerError {
    /// A directory cannot be used. `option` is its mount option.
    Open { option: &'static str, path: PathBuf, error: Errno },
    /// Two of the directories lie inside each other, or are one.
    Overlap { upper: PathBuf, lower: PathBuf, relation: Relation },
    /// More lower directories than can be numbered.
    TooMany { given: usize, limit: usize },
    /// Neither a lower nor an upper directory was given.
    Empty,
    /// `/proc`, through which checked objects are reopened, cannot be used.
    NoProc(Errno),
}

/// How an upper directory lies to a lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Same,
    UpperInsideLower,
    LowerInsideUpper,
}

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayerError::Open { option, path, error } => {
                write!(f, "{option} {}: ", path.display())?;
                write_open_problem(f, *error)
            }
            LayerError::Overlap { upper, lower, relation } => {
                let (upper, lower) = (upper.display(), lower.display());
                match relation {
                    Relation::Same => write!(f, "upperdir {upper}: is a lowerdir as well"),
                    Relation::UpperInsideLower => {
                        write!(f, "upperdir {upper}: lies inside lowerdir {lower}")
                    }
                    Relation::LowerInsideUpper => {
                        write!(f, "lowerdir {lower}: lies inside upperdir {upper}")
                    }
                }
            }
            LayerError::TooMany { given, limit } => {
                write!(f, "lowerdir: {given} directories given, {limit} is the limit")
            }
            LayerError::Empty => write!(f, "lowerdir: none given"),
            LayerError::NoProc(error) => write!(f, "/proc: {error}; it must be mounted"),
        }
    }
}

fn write_open_problem(f: &mut fmt::Formatter<'_>, error: Errno) -> fmt::Result {
    match error {
        Errno::NOENT => write!(f, "no such directory"),
        Errno::NOTDIR => write!(f, "not a directory"),
        Errno::ACCESS | Errno::PERM => write!(f, "permission denied: this user cannot read it"),
        Errno::MFILE => write!(f, "too many open files; raise the limit (ulimit -n)"),
        Errno::LOOP => write!(f, "too many symbolic links"),
        other => write!(f, "{other}"),
    }
}

impl std::error::Error for LayerError {}

/// Checks that no layer would be written while it is read: `upper` and the `lowers` may not lie
/// inside each other. With `upper_may_lie_in_lower` one case is let through: a view of `/` has to
/// keep its upper directory somewhere. Symbolic links are resolved.
///
/// # Errors
/// [`LayerError::Overlap`], or [`LayerError::Open`] for a directory that cannot be resolved.
pub fn check_overlap(
    upper: &Path,
    lowers: &[PathBuf],
    upper_may_lie_in_lower: bool,
) -> Result<(), LayerError> {
    let resolve = |option, path: &Path| {
        path.canonicalize().map_err(|e| LayerError::Open {
            option,
            path: path.to_owned(),
            error: crate::errno::of_io(&e),
        })
    };
    let real_upper = resolve("upperdir", upper)?;
    for lower in lowers {
        let relation = match relate(&real_upper, &resolve("lowerdir", lower)?) {
            None => continue,
            Some(Relation::UpperInsideLower) if upper_may_lie_in_lower => continue,
            Some(relation) => relation,
        };
        return Err(LayerError::Overlap {
            upper: upper.to_owned(),
            lower: lower.clone(),
            relation,
        });
    }
    Ok(())
}

fn relate(upper: &Path, lower: &Path) -> Option<Relation> {
    if upper == lower {
        Some(Relation::Same)
    } else if upper.starts_with(lower) {
        Some(Relation::UpperInsideLower)
    } else if lower.starts_with(upper) {
        Some(Relation::LowerInsideUpper)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path();
        for name in ["upper/in", "lower/in", "lower2"] {
            std::fs::create_dir_all(base.join(name)).expect("made");
        }
        std::os::unix::fs::symlink(base.join("upper"), base.join("link")).expect("made");
        let check = |upper: &str, lower: &str, may| {
            let lowers = [base.join("lower2"), base.join(lower)];
            check_overlap(&base.join(upper), &lowers, may).map_err(|e| match e {
                LayerError::Overlap { relation, .. } => relation,
                e => panic!("{e}"),
            })
        };
        assert_eq!(check("upper", "lower", false), Ok(()));
        assert_eq!(check("lower2", "lower", false), Err(Relation::Same));
        assert_eq!(check("link", "upper", true), Err(Relation::Same));
        assert_eq!(check("lower/in", "lower", false), Err(Relation::UpperInsideLower));
        assert_eq!(check("lower/in", "lower", true), Ok(()));
        assert_eq!(check("upper", "upper/in", true), Err(Relation::LowerInsideUpper));
        assert_eq!(check("upper", "link/in", true), Err(Relation::LowerInsideUpper));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let none = PathBuf::from("/nonexistent-directory");
        let text = |upper: &Path, lower: &Path| {
            check_overlap(upper, &[lower.to_owned()], true).expect_err("missing").to_string()
        };
        let exists = Path::new("/tmp");
        assert_eq!(text(exists, &none), "lowerdir /nonexistent-directory: no such directory");
        assert_eq!(text(&none, exists), "upperdir /nonexistent-directory: no such directory");
    }
}
