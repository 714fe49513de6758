//! Stacks of lowers: who hides whom, in every spelling; and that no layer is ever changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use overcoat_tests::{Scratch, Spec, fsx, manifest, mount_tests, overcoat_only, store, tool};
use rustix::fs::FileType;

/// Two lowers, topmost first; the bottom one has `file`, `dir/one`, `dir/two` and `dir/sub/deep`.
fn two_layers(scratch: &Scratch) -> [PathBuf; 2] {
    let (top, bottom) = (scratch.dir("top"), scratch.dir("bottom"));
    fsx::write(bottom.join("file"), "bottom");
    fsx::mkdir(bottom.join("dir/sub"));
    fsx::write(bottom.join("dir/one"), "one");
    fsx::write(bottom.join("dir/two"), "two");
    fsx::write(bottom.join("dir/sub/deep"), "deep");
    [top, bottom]
}

fn touch(path: impl AsRef<Path>) {
    fsx::write(path, "");
}

fn mark(path: impl AsRef<Path>, name: &str, value: &[u8]) {
    fsx::set_xattr(path, name, value).unwrap();
}

mount_tests! {
    fn leftmost_on_top(scratch) {
        let layers: Vec<PathBuf> = (0..5).map(|number| scratch.dir(&format!("l{number}"))).collect();
        for (number, layer) in layers.iter().enumerate() {
            fsx::write(layer.join("f"), number.to_string());
            fsx::write(layer.join(format!("only-{number}")), "");
        }
        let mount = Spec::of(scratch).lowers(&layers).mount();
        assert_eq!(fsx::read(mount.path("f")), b"0");
        assert_eq!(fsx::names(mount.root()).len(), 6);
    }

    fn whiteout_by_device(scratch) {
        let layers = two_layers(scratch);
        fsx::mkdir(layers[0].join("dir"));
        fsx::whiteout(layers[0].join("file"));
        fsx::whiteout(layers[0].join("dir/one"));
        let mount = Spec::of(scratch).lowers(&layers).mount();
        assert_eq!(fsx::names(mount.root()), ["dir"]);
        assert_eq!(fsx::names(mount.path("dir")), ["sub", "two"]);
        fsx::write(mount.path("file"), "new");
        assert_eq!(fsx::read(mount.path("file")), b"new");
    }

    fn whiteout_by_aufs_name(scratch) {
        overcoat_only!();
        let layers = two_layers(scratch);
        fsx::mkdir(layers[0].join("dir"));
        touch(layers[0].join(".wh.file"));
        touch(layers[0].join("dir/.wh.one"));
        touch(layers[0].join("dir/.wh.sub"));
        touch(layers[0].join(".wh..wh.plnk"));
        let mount = Spec::of(scratch).lowers(&layers).mount();
        assert_eq!(fsx::names(mount.root()), ["dir"]);
        assert_eq!(fsx::names(mount.path("dir")), ["two"]);
        assert!(!fsx::exists(mount.path(".wh.file")));
    }

    fn whiteout_by_attribute(scratch) {
        overcoat_only!();
        let layers = two_layers(scratch);
        fsx::mkdir(layers[0].join("dir"));
        // A directory that holds such whiteouts says so by an opaque value of x.
        mark(layers[0].join("dir"), "trusted.overlay.opaque", b"x");
        touch(layers[0].join("dir/one"));
        mark(layers[0].join("dir/one"), "trusted.overlay.whiteout", b"");
        touch(layers[0].join("dir/sub"));
        mark(layers[0].join("dir/sub"), "user.overlay.whiteout", b"");
        let mount = Spec::of(scratch).lowers(&layers).mount();
        assert_eq!(fsx::names(mount.path("dir")), ["two"]);
    }

    fn many_layers_with_few_descriptors_list_and_read_everything(scratch) {
        overcoat_only!();
        const LAYERS: usize = 500;
        const FILES: usize = 700;
        let layers: Vec<PathBuf> =
            (0..LAYERS).map(|number| scratch.dir(&format!("l{number}"))).collect();
        for (number, layer) in layers.iter().enumerate() {
            fsx::mkdir(layer.join("merged"));
            touch(layer.join(format!("merged/{number}")));
        }
        // More open files and directories than a daemon with so many layers could keep.
        for number in 0..FILES {
            fsx::mkdir(layers[0].join(format!("d/{number}")));
            fsx::write(layers[0].join(format!("d/{number}/f")), number.to_string());
        }
        let mount = Spec::of(scratch).lowers(&layers).descriptors(1024).mount();
        let held: Vec<_> = (0..FILES)
            .map(|number| {
                let path = mount.path(format!("d/{number}/f"));
                assert_eq!(fsx::read(&path), number.to_string().as_bytes());
                std::fs::File::open(path).unwrap()
            })
            .collect();
        assert_eq!(fsx::names(mount.path("merged")).len(), LAYERS);
        for number in 0..FILES {
            assert_eq!(fsx::names(mount.path(format!("d/{number}"))), ["f"]);
        }
        drop(held);
    }

    fn a_file_replaced_on_the_host_is_soon_shown_as_it_is(scratch) {
        overcoat_only!();
        let lower = scratch.lower();
        fsx::write(lower.join("a"), "old and long");
        fsx::write(lower.join("b"), "new");
        let mount = Spec::of(scratch).mount();
        let size = |name: &str| std::fs::metadata(mount.path(name)).map(|found| found.len()).ok();
        assert_eq!((size("a"), size("b")), (Some(12), Some(3)));
        std::fs::rename(lower.join("b"), lower.join("a")).unwrap();
        // Neither has been read. What was looked up is never given the bytes of the other.
        let read = |name: &str| std::fs::read(mount.path(name));
        let is_stale = |err: std::io::Error| err.raw_os_error() == Some(116);
        for name in ["a", "b"] {
            assert!(read(name).is_err_and(is_stale), "{name}");
        }
        let limit = Duration::from_secs(20);
        tool::eventually("the new file", limit, || read("a").is_ok_and(|data| data == b"new"));
        assert_eq!(size("a"), Some(3));
        tool::eventually("no file", limit, || !fsx::exists(mount.path("b")));
    }

    fn opaque_in_three_spellings(scratch) {
        for (spelling, key) in ["trusted.overlay.opaque", "user.overlay.opaque", ".wh..wh..opq"]
            .into_iter().enumerate()
        {
            let sub = Scratch::new(&format!("opaque-{spelling}"));
            let layers = two_layers(&sub);
            fsx::mkdir(layers[0].join("dir"));
            touch(layers[0].join("dir/new"));
            if key.starts_with('.') {
                touch(layers[0].join("dir").join(key));
            } else {
                mark(layers[0].join("dir"), key, b"y");
            }
            if overcoat_tests::Driver::from_env() != overcoat_tests::Driver::Overcoat && spelling > 0 {
                continue;
            }
            let mount = Spec::of(&sub).lowers(&layers).mount();
            assert_eq!(fsx::names(mount.path("dir")), ["new"], "{key}");
            assert!(!fsx::exists(mount.path("dir/one")), "{key}");
        }
        scratch.lower();
    }

    fn a_file_hides_a_directory_and_the_other_way_round(scratch) {
        let [top, bottom] = two_layers(scratch);
        let third = scratch.dir("third");
        fsx::mkdir(third.join("file/inside"));
        fsx::mkdir(third.join("dir/third"));
        touch(top.join("dir"));
        fsx::mkdir(top.join("file"));
        let mount = Spec::of(scratch).lowers(&[top, bottom, third]).mount();
        assert!(std::fs::metadata(mount.path("dir")).unwrap().is_file());
        // The file in the middle ends the merge: what lies under it is hidden too.
        assert!(fsx::names(mount.path("file")).is_empty());
    }

    fn a_whiteout_in_the_middle_ends_the_merge(scratch) {
        let [top, bottom] = two_layers(scratch);
        let middle = scratch.dir("middle");
        fsx::whiteout(middle.join("dir"));
        fsx::mkdir(top.join("dir"));
        touch(top.join("dir/top"));
        let mount = Spec::of(scratch).lowers(&[top, middle, bottom]).mount();
        assert_eq!(fsx::names(mount.path("dir")), ["top"]);
    }

    fn what_lies_in_the_upperdir_shows(scratch) {
        overcoat_only!();
        let layers = two_layers(scratch);
        let upper = scratch.upper();
        fsx::mkdir(upper.join("dir"));
        fsx::write(upper.join("unpacked"), "by an engine");
        touch(upper.join(".wh.file"));
        fsx::whiteout(upper.join("dir/one"));
        fsx::set_times(upper.join("unpacked"), (1, 1), (1, 1)).unwrap();
        let before = manifest::of_layer(&upper);
        let spec = Spec::of(scratch).lowers(&layers);
        let mount = spec.mount();
        assert_eq!(fsx::names(mount.root()), ["dir", "unpacked"]);
        assert_eq!(fsx::names(mount.path("dir")), ["sub", "two"]);
        fsx::write(mount.path("unpacked"), "changed");
        std::fs::remove_file(mount.path("dir/two")).unwrap();
        mount.unmount();
        let after = manifest::of_layer(&upper).retain(|path| path != store::NAME.as_bytes());
        let root_times = |manifest: manifest::Manifest| manifest.map(|path, node| {
            if path.is_empty() {
                (node.mtime, node.ctime, node.blocks) = ((0, 0), (0, 0), 0);
            }
        });
        root_times(after).assert_same(&root_times(before), "the upperdir beside the filestore");
        let mount = spec.mount();
        assert_eq!(fsx::read(mount.path("unpacked")), b"changed");
        assert_eq!(fsx::names(mount.path("dir")), ["sub"]);
    }

    fn five_hundred_lowers(scratch) {
        let layers: Vec<PathBuf> = (0..500).map(|number| scratch.dir(&format!("l/{number}"))).collect();
        for (number, layer) in layers.iter().enumerate() {
            fsx::mkdir(layer.join("d"));
            fsx::write(layer.join(format!("d/f{number}")), number.to_string());
            if number > 0 {
                fsx::write(layer.join(format!("d/f{}", number - 1)), "hidden");
            }
        }
        let spec = Spec { driver: overcoat_tests::Driver::Overcoat, ..Spec::of(scratch) };
        overcoat_only!(); // mount(2) takes a page of options, which 500 paths do not fit in
        let mount = spec.lowers(&layers).mount();
        assert_eq!(fsx::names(mount.path("d")).len(), 500);
        for number in [0, 1, 250, 499] {
            assert_eq!(fsx::read(mount.path(format!("d/f{number}"))), number.to_string().as_bytes());
        }
        fsx::write(mount.path("d/f499"), "upper");
        std::fs::rename(mount.path("d"), mount.path("e")).unwrap();
        assert_eq!(fsx::names(mount.path("e")).len(), 500);
    }

    fn names_with_separators_are_escaped(scratch) {
        overcoat_only!();
        let odd = scratch.dir("a,b:c\\d e");
        fsx::write(odd.join("f"), "odd");
        let mut spec = Spec::of(scratch);
        let escaped = odd.to_str().unwrap().replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:");
        spec.lowers = vec![PathBuf::from(escaped)];
        let mount = spec.mount();
        assert_eq!(fsx::read(mount.path("f")), b"odd");
    }

    fn redirect_and_metacopy_are_never_misread(scratch) {
        overcoat_only!();
        for (number, key) in ["trusted.overlay.redirect", "trusted.overlay.metacopy"].into_iter().enumerate() {
            let sub = Scratch::new(&format!("foreign-{number}"));
            let layers = two_layers(&sub);
            if number == 0 {
                fsx::mkdir(layers[0].join("moved"));
                mark(layers[0].join("moved"), key, b"/dir");
            } else {
                std::fs::File::create(layers[0].join("file")).unwrap().set_len(6).unwrap();
                mark(layers[0].join("file"), key, b"");
            }
            let outcome = overcoat_tests::tool::overcoat_run(
                &Spec::of(&sub).lowers(&layers).arguments(),
                std::time::Duration::from_secs(20),
            );
            if outcome.code == Some(0) {
                // Honoured, or refused at use: never silently wrong.
                let view = sub.path("mnt");
                let ok = if number == 0 {
                    std::fs::read_dir(view.join("moved")).map(|entries| entries.count() == 3)
                } else {
                    std::fs::read(view.join("file")).map(|data| data == b"bottom")
                };
                let fine = ok.unwrap_or(true);
                overcoat_tests::mount::unmount_below(&view);
                assert!(fine, "{key} is misread");
            }
        }
        scratch.lower();
    }

    fn links_in_a_layer_lead_nowhere_on_the_host(scratch) {
        let layers = two_layers(scratch);
        // In the view they are links like any others, resolved by the kernel inside of it.
        std::os::unix::fs::symlink("/etc", layers[0].join("etc")).unwrap();
        std::os::unix::fs::symlink("../../../../../../../etc", layers[1].join("etc2")).unwrap();
        let mount = Spec::of(scratch).lowers(&layers).mount();
        assert_eq!(std::fs::read_link(mount.path("etc")).unwrap(), Path::new("/etc"));
        std::fs::remove_file(mount.path("etc")).unwrap();
        fsx::mkdir(mount.path("etc"));
        assert!(fsx::names(mount.path("etc")).is_empty());
    }

    fn a_lower_may_be_an_overcoat_mount(scratch) {
        overcoat_only!();
        let layers = two_layers(scratch);
        let below = Spec::of(scratch).lowers(&layers).mount();
        fsx::write(below.path("written"), "below");
        let mut spec = Spec::of(scratch).lowers(&[below.root().to_owned()]).at(scratch.dir("mnt2"));
        spec.upper = Some(scratch.dir("upper2"));
        let above = spec.mount();
        assert_eq!(fsx::read(above.path("written")), b"below");
        fsx::write(above.path("written"), "above");
        assert_eq!(fsx::read(below.path("written")), b"below");
        above.unmount();
    }

    fn no_layer_is_ever_changed(scratch) {
        let layers = two_layers(scratch);
        for layer in &layers {
            fsx::write(layer.join("big"), vec![7; 300_000]);
            fsx::write(layer.join("removed"), "x");
            fsx::mkdir(layer.join("tree/a/b"));
            fsx::write(layer.join("tree/a/b/f"), "x");
            fsx::mknod(layer.join("fifo"), FileType::Fifo, 0o644, (0, 0)).unwrap();
            std::os::unix::fs::symlink("big", layer.join("link")).unwrap();
            mark(layer.join("big"), "user.a", b"1");
            std::fs::hard_link(layer.join("big"), layer.join("hard")).unwrap();
            // So that relatime would move any access time.
            for name in ["big", "tree/a/b/f", "tree", "link", "dir"] {
                if fsx::exists(layer.join(name)) {
                    fsx::set_times(layer.join(name), (1, 1), (1_000_000, 1)).unwrap();
                }
            }
        }
        let before: Vec<_> = layers.iter().map(|layer| manifest::of_layer(layer)).collect();
        let mount = Spec::of(scratch).lowers(&layers).mount();
        overcoat_tests::tool::run("sh", &["-c", &format!(
            "cd {} && find . -type f -exec cat {{}} + >/dev/null && ls -laR >/dev/null && \
             echo x >>big && chmod 600 hard && chown 3:4 link && setfattr -n user.b -v 2 tree && \
             touch -d @5 dir/one && rm removed && mv tree moved && ln dir/two dir/three && \
             truncate -s 5 dir/two && rm -rf moved/a && mv dir/sub sub && rm -r sub && \
             fallocate -p -o 4096 -l 4096 big && dd if=/dev/zero of=hard bs=1 count=1 seek=9 conv=notrunc \
             status=none", mount.root().display(),
        )]);
        mount.unmount();
        for (layer, before) in layers.iter().zip(before) {
            manifest::of_layer(layer).assert_same(&before, &layer.display().to_string());
        }
    }
}
