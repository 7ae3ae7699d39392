//! Ordinary programs on the mount.

use fs_mirror::fs::Access;

use crate::Mounted;

/// True when the program is there; says so when not.
fn has(program: &str) -> bool {
    let found = std::process::Command::new("sh")
        .args(["-c", &format!("command -v {program} > /dev/null")])
        .status()
        .unwrap();
    if !found.success() {
        println!("skipped: {program} is not installed");
    }
    found.success()
}

#[test]
fn a_shell_session() {
    let Some(mut mounted) = Mounted::new(Access::ReadWrite) else {
        return;
    };
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

#[test]
fn a_database() {
    let Some(mounted) = Mounted::new(Access::ReadWrite).filter(|_| has("sqlite3")) else {
        return;
    };
    for mode in ["DELETE", "WAL"] {
        let script = format!(
            r#"
            rm -f db*
            sqlite3 db 'PRAGMA journal_mode={mode}; CREATE TABLE t(n INTEGER PRIMARY KEY, x TEXT);' > /dev/null
            for i in $(seq 20); do sqlite3 db "PRAGMA synchronous=FULL; INSERT INTO t(x) VALUES(hex(randomblob(2000)));" ; done
            [ "$(sqlite3 db 'SELECT count(*) FROM t; PRAGMA integrity_check;' | xargs)" = '20 ok' ]
            sqlite3 db 'BEGIN; WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<20000)
                        INSERT INTO t(x) SELECT hex(randomblob(50)) FROM c; COMMIT; DELETE FROM t WHERE n%3=0; VACUUM;'
            [ "$(sqlite3 db 'PRAGMA integrity_check')" = ok ]
            "#
        );
        mounted.sh(&script);
    }
}

#[test]
fn a_repository() {
    let Some(mounted) = Mounted::new(Access::ReadWrite).filter(|_| has("git")) else {
        return;
    };
    mounted.sh(
        r#"
        export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b HOME=$PWD
        git init -q one; cd one
        for i in $(seq 50); do mkdir -p d$((i % 7)); seq $i 1000 > d$((i % 7))/f$i; done
        git add .; git commit -qm first; git mv d1 e1; git commit -qm second; git gc -q; git fsck --strict 2>&1
        cd ..; git clone -q one two; diff -r one/e1 two/e1; [ -z "$(git -C two status --porcelain)" ]
        "#,
    );
}

#[test]
fn an_archive_survives_the_round_trip() {
    let Some(mut mounted) = Mounted::new(Access::ReadWrite) else {
        return;
    };
    mounted.sh(
        r#"
        mkdir t; cd t
        seq 100000 > big; truncate -s 3M sparse; printf x | dd of=sparse bs=1 seek=2M conv=notrunc status=none
        ln big hard; ln -s big soft; ln -s nowhere dangling; mkfifo pipe; mkdir -m 2775 shared; mkdir deep
        chown 12:34 big shared; chmod 6755 sparse; touch -d @1.5 deep big; touch -h -d @7 soft
        name=$(printf 'odd\n \\ "\xff\xfe'); echo 1 > "$name"; echo 2 > "$(printf %255s | tr ' ' x)"
        cd ..; tar -cf /dev/stdout --xattrs t > t.tar; mkdir u; tar -xpf t.tar -C u
        (cd t; find . -printf '%p %y %m %U %G %s %T@ %n %l\n' | sort) > one
        (cd u/t; find . -printf '%p %y %m %U %G %s %T@ %n %l\n' | sort) > two
        diff one two; tar -df t.tar -C u; [ "$(wc -l < one)" -ge 12 ]
        cmp <(cd t; find . | LC_ALL=C sort) <(cd u/t; find . | LC_ALL=C sort)
        "#,
    );
    mounted.unmount();
    // What the mount showed is what is below.
    mounted.sh("diff one <(cd t; find . -printf '%p %y %m %U %G %s %T@ %n %l\\n' | sort)");
}

#[test]
fn permissions_of_another_user() {
    let Some(mounted) = Mounted::new(Access::ReadWrite).filter(|_| has("setpriv")) else {
        return;
    };
    mounted.sh(
        r#"
        chmod 755 .. .; as() { setpriv --reuid 1000 --regid 1000 --clear-groups -- "$@"; }
        mkdir -m 1777 tmp; mkdir -m 700 private; echo secret > private/f; echo public > tmp/f; chmod 644 tmp/f
        as cat tmp/f > /dev/null; ! as cat private/f 2> /dev/null; ! as rm -f tmp/f 2> /dev/null
        ! as sh -c 'echo x >> tmp/f' 2> /dev/null; ! as mkdir d 2> /dev/null; ! as chown 1000 tmp/f 2> /dev/null
        as sh -c 'umask 022; echo x > tmp/mine; mkdir tmp/dir; ln -s a tmp/link; mkfifo tmp/pipe'
        [ "$(cd tmp; stat -c %u:%g:%a mine dir link pipe | xargs)" = '1000:1000:644 1000:1000:755 1000:1000:777 1000:1000:644' ]
        mkdir -m 2777 tmp/shared; chgrp 77 tmp/shared; chmod 2777 tmp/shared; as sh -c 'echo > tmp/shared/f; mkdir tmp/shared/d'
        [ "$(cd tmp/shared; stat -c %u:%g:%a f d | xargs)" = '1000:77:644 1000:77:2755' ]
        cp /bin/true tmp/su; chmod 6777 tmp/su; as sh -c 'printf x | dd of=tmp/su conv=notrunc bs=1 seek=20000 status=none'
        [ "$(stat -c %a tmp/su)" = 777 ]
        chmod 6777 tmp/su; as truncate -s 100 tmp/su; [ "$(stat -c %a tmp/su)" = 777 ]
        chmod 6777 tmp/su; chown 5 tmp/su; [ "$(stat -c %a tmp/su)" = 777 ]
        chmod 6777 tmp/su; printf x | dd of=tmp/su conv=notrunc bs=1 status=none; [ "$(stat -c %a tmp/su)" = 6777 ]
        "#,
    );
}

#[test]
fn direct_and_mapped_access() {
    let Some(mounted) = Mounted::new(Access::ReadWrite).filter(|_| has("python3")) else {
        return;
    };
    std::fs::write(mounted.path().join("check.py"), include_str!("check.py")).unwrap();
    mounted.sh("python3 check.py");
}
