//! What podman does with containers and images.

use overcoat_tests::mount::is_mounted;
use overcoat_tests::rng::bytes;
use overcoat_tests::{Manifest, fsx, manifest, mount_tests, overcoat_only, store, tool};

use crate::image;
use crate::podman::Podman;

/// What the layers of all images are, in a fixed order.
fn layers(podman: &Podman) -> Vec<Manifest> {
    let storage = podman.storage();
    let dirs = fsx::names(&storage).into_iter().map(|name| storage.join(name).join("diff"));
    let found: Vec<Manifest> =
        dirs.filter(|dir| dir.is_dir()).map(|dir| manifest::of_layer(&dir)).collect();
    assert_eq!(found.len(), 3);
    found
}

mount_tests! {
    fn a_container_lives_and_leaves_nothing(scratch) {
        overcoat_only!();
        let Some(podman) = Podman::with_image(scratch) else { return };
        podman.run(&["run", "-d", "--name", "one", image::NAME, "sleep", "1000"]);
        assert_eq!(podman.exec("one", "ls /data /data/opaque"), "/data:\nkept\nopaque\n\n/data/opaque:\nnew");
        podman.exec("one", "echo written >/written; chmod 640 /data/kept; ln /dir/a /dir/c; mv /dir /moved");

        // What was written stays through stop and start, to the inode.
        let stat = "stat -c '%n %i %a %h %Y' /written /data/kept /moved /moved/*";
        let before = podman.exec("one", stat);
        podman.run(&["stop", "-t", "0", "one"]);
        tool::eventually("the container's daemon ends", std::time::Duration::from_secs(20), || {
            podman.daemons().is_empty()
        });
        podman.run(&["start", "one"]);
        assert_eq!(podman.exec("one", stat), before);
        assert_eq!(podman.exec("one", "cat /written /moved/a /moved/c"), "written\naa");

        // Copies go in and out, of a running container and of a stopped one.
        let data = bytes(1, 300_000);
        fsx::write(scratch.path("in"), &data);
        podman.run(&["cp", scratch.path("in").to_str().unwrap(), "one:/copied"]);
        podman.run(&["stop", "-t", "0", "one"]);
        podman.run(&["cp", scratch.path("in").to_str().unwrap(), "one:/data/copied"]);
        for name in ["/copied", "/data/copied"] {
            let out = scratch.path("out");
            podman.run(&["cp", &format!("one:{name}"), out.to_str().unwrap()]);
            assert!(fsx::read(&out) == data, "{name} is not what was copied in");
        }

        let expected = [
            "A /copied", "A /data/copied", "A /moved", "A /moved/a", "A /moved/b", "A /moved/c", "A /written",
            "C /data", "C /data/kept", "D /dir",
        ];
        assert_eq!(podman.diff("one"), expected);
        podman.run(&["commit", "-q", "one", "localhost/second:1"]);
        let said = podman.run(&[
            "run", "--name", "two", "localhost/second:1", "sh", "-ec",
            "cat /written /moved/c; stat -c %a-%h /data/kept /moved/a; ls / /data",
        ]);
        assert_eq!(
            said.split_whitespace().collect::<Vec<_>>().join(" "),
            "written a640-1 644-2 /: bin copied data dev etc moved proc run sys tmp written \
             /data: copied kept opaque"
        );
        podman.run(&["rm", "one", "two"]);
        podman.assert_nothing_left();
    }

    fn what_was_deleted_stays_deleted(scratch) {
        overcoat_only!();
        let Some(podman) = Podman::with_image(scratch) else { return };
        let replace = "rm -rf /dir && mkdir /dir && echo q >/dir/q";
        podman.run(&["run", "--name", "one", image::NAME, "sh", "-ec", replace]);
        assert_eq!(podman.diff("one"), ["A /dir/q", "C /dir", "D /dir/a", "D /dir/b"]);
        podman.run(&["commit", "-q", "one", "localhost/second:1"]);
        let script = "ls /dir; rm /dir/q; rm -rf /data/opaque";
        assert_eq!(podman.run(&["run", "--name", "two", "localhost/second:1", "sh", "-ec", script]), "q");
        assert_eq!(podman.diff("two"), ["C /data", "C /dir", "D /data/opaque", "D /dir/q"]);
        podman.run(&["commit", "-q", "two", "localhost/third:1"]);
        let script = "ls /dir /data";
        let said = podman.run(&["run", "--name", "three", "localhost/third:1", "sh", "-ec", script]);
        assert_eq!(said, "/data:\nkept\n\n/dir:");
        podman.run(&["rm", "one", "two", "three"]);
        podman.assert_nothing_left();
    }

    fn a_throw_away_container_is_volatile(scratch) {
        overcoat_only!();
        let Some(podman) = Podman::with_image(scratch) else { return };
        podman.run(&["run", "-d", "--rm", "--name", "one", image::NAME, "sleep", "1000"]);
        let daemons = podman.daemons();
        let [daemon] = daemons.as_slice() else { panic!("not one daemon: {daemons:?}") };
        let cmdline = format!("/proc/{}/cmdline", daemon.as_raw_nonzero());
        let told = String::from_utf8(fsx::read(cmdline)).unwrap();
        assert!(told.contains(",volatile"), "podman's --rm asks for volatile: {told}");
        assert_eq!(podman.exec("one", "echo x >/data/kept; sync; cat /data/kept"), "x");
        podman.run(&["stop", "-t", "0", "one"]);
        podman.assert_no_container_left();
        let said = podman.run(&["run", "--rm", image::NAME, "cat", "/data/kept"]);
        assert_eq!(said, "kept");
        podman.assert_nothing_left();
    }

    fn an_image_is_mounted_read_only(scratch) {
        overcoat_only!();
        let Some(podman) = Podman::with_image(scratch) else { return };
        let before = layers(&podman);
        let root = podman.run(&["image", "mount", image::NAME]);
        let root = std::path::Path::new(&root);
        assert!(is_mounted(root));
        assert_eq!(fsx::names(root.join("data")), ["kept", "opaque"]);
        assert_eq!(fsx::names(root.join("data/opaque")), ["new"]);
        assert_eq!(std::fs::write(root.join("new"), "x").unwrap_err().raw_os_error(), Some(30));
        podman.run(&["image", "umount", image::NAME]);
        assert!(!is_mounted(root));
        for (before, after) in before.iter().zip(layers(&podman)) {
            before.assert_same(&after, "a layer of the image");
        }
        podman.assert_nothing_left();
    }

    fn a_look_at_an_image_shows_in_no_container(scratch) {
        overcoat_only!();
        let Some(podman) = Podman::with_image(scratch) else { return };
        // podman mounts the layer read-write on its own directory for that.
        let said = podman.run(&["image", "diff", image::NAME]);
        assert_eq!(said.lines().collect::<Vec<_>>(), ["C /data", "D /data/gone"]);
        podman.run(&["create", "--name", "one", image::NAME, "sleep", "1000"]);
        let tar = scratch.path("exported.tar");
        podman.run(&["export", "-o", tar.to_str().unwrap(), "one"]);
        let names = tool::run("tar", &["-tf".as_ref(), tar.as_os_str()]);
        assert!(names.lines().any(|name| name == "data/opaque/new"), "{names}");
        assert!(!names.contains(store::NAME), "{names}");
        podman.run(&["rm", "one"]);
        podman.assert_nothing_left();
    }
}
