//! Ordinary programs on the mount.

use fs_mirror::fs::Access;

use crate::Mounted;

#[test]
fn a_shell_session() {
    let Some(mut mounted) = Mounted::new(Access::ReadWrite) else { return };
    mounted.sh(
        r#"
        umask 027
        echo hello > a; [ "$(cat a)" = hello ]; [ "$(stat -c %a a)" = 640 ]
        echo more >> a; [ "$(wc -l < a)" = 2 ]
        mkdir -p d/e/f; mv a d/e/f/b; [ ! -e a ]; [ -s d/e/f/b ]
        [ "$(stat -c %a d)" = 750 ]
        ln d/e/f/b c; [ "$(stat -c %h c)" = 2 ]; ln -s d/e/f/b s; [ "$(readlink s)" = d/e/f/b ]; cat s > /dev/null
        chmod 4711 c; [ "$(stat -c %a d/e/f/b)" = 4711 ]
        touch -d '1969-12-31 23:59:58.5 UTC' c; [ "$(stat -c %.2Y c)" = -1.50 ]
        truncate -s 1M c; [ "$(stat -c %s d/e/f/b)" = 1048576 ]
        mkfifo p; [ -p p ]; mknod n c 1 3; echo x > n; [ "$(stat -c %t:%T n)" = 1:3 ]
        rm -r d c s p n; [ -z "$(ls -A)" ]
        for i in $(seq 300); do echo $i > f$i; done; [ "$(ls | wc -l)" = 300 ]; rm f*
        "#,
    );
    mounted.unmount();
    assert_eq!(std::fs::read_dir(mounted.path()).unwrap().count(), 0);
}
