//! Who types: what the audit trail of the cluster records.

use std::fs;

/// The caller's name: the user behind sudo, else the name of the user id, else the id.
pub(crate) fn author() -> String {
    let sudo = std::env::var("SUDO_USER").ok().filter(|name| is_name(name));
    sudo.unwrap_or_else(|| {
        let id = rustix::process::getuid().as_raw();
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        name_of(id, &users).unwrap_or_else(|| format!("uid {id}"))
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && !name.chars().any(char::is_control)
}

/// Looks `id` up in the text of a passwd file.
fn name_of(id: u32, users: &str) -> Option<String> {
    let id = id.to_string();
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| is_name(name))?;
        (fields.nth(1) == Some(id.as_str())).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn users_are_found_by_id() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:7:7\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(1000, users).as_deref(), Some("ann"));
        assert_eq!(name_of(0, users).as_deref(), Some("root"));
        assert_eq!(name_of(7, users), None);
    }
}
