//! The same random operations on Overcoat and on kernel overlayfs.
