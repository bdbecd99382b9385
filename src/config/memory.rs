//! Reads how much memory the process can use, and checks that it is enough for one call.
//!
//! The default is 70 % of the smallest limit of the process's cgroup and its parents (version 2 or 1), or of the
//! machine's memory. The rest is for the kernel's buffers, a shell and the page cache.

use std::{fs, path::Path};

use bytesize::ByteSize;

use super::reader::Reader;
use crate::{memory::Budget, upstream};

const NAME: &str = "MEMORY_LIMIT";

/// The memory settings.
pub(super) struct Memory {
    /// Bytes that the process can use.
    pub(super) limit: usize,
    /// Bytes that one call can hold.
    pub(super) largest_call: usize,
}

/// Reads the setting.
pub(super) fn read(
    read: &mut Reader<'_>,
    max_request_bytes: usize,
    upstream: &upstream::Settings,
) -> Memory {
    let (reply, event) = (upstream.max_reply_bytes, upstream.sse.max_event_bytes);
    let largest = max_request_bytes.max(reply).max(event);
    let largest_call = 2 * largest + 4 * upstream::MAX_CHUNK_BYTES;
    let limit = read
        .unless_auto(NAME, Reader::memory)
        .unwrap_or_else(|| available(Path::new("/")).map_or(usize::MAX, |bytes| bytes / 10 * 7));
    let required = Budget::least_limit(largest_call);
    if limit < required && !read.is_invalid(NAME) {
        let text = format!(
            "is {}, but the bridge needs at least {}: three times 2 x {} (the largest of MAX_REQUEST_BYTES, MAX_REPLY_BYTES and MAX_EVENT_BYTES), and the memory of the process itself",
            in_mib(limit),
            in_mib(required),
            in_mib(largest),
        );
        read.reject(NAME, text);
    }
    Memory {
        limit,
        largest_call,
    }
}

fn in_mib(bytes: usize) -> String {
    ByteSize::b(bytes as u64).display().iec().to_string()
}

/// The cgroup's limit, or else the machine's memory, in bytes.
fn available(root: &Path) -> Option<usize> {
    cgroup_limit(root)
        .into_iter()
        .chain(machine_memory(root))
        .min()
}

/// The smallest limit of the process's cgroup and its parents (cgroups(7)).
fn cgroup_limit(root: &Path) -> Option<usize> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        let [_, controllers, group] = line.splitn(3, ':').collect::<Vec<_>>().try_into().ok()?;
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        smallest_of_parents(&root.join(mount), Path::new(group), file)
    });
    limits.min()
}

/// In a container the path can be one of the host's. The mount's root is then the process's cgroup.
fn smallest_of_parents(mount: &Path, group: &Path, file: &str) -> Option<usize> {
    let group = group.strip_prefix("/").unwrap_or(group);
    let directories = group.ancestors().map(|parent| mount.join(parent));
    let limit = |directory: std::path::PathBuf| -> Option<usize> {
        let text = fs::read_to_string(directory.join(file)).ok()?;
        text.trim().parse().ok() // not "max"
    };
    directories.filter_map(limit).min()
}

/// The machine's memory, in bytes (proc(5), meminfo).
fn machine_memory(root: &Path) -> Option<usize> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root directory with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, text).expect("written");
        }
        root
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:        8000000 kB\nMemFree: 1 kB\n",
    );

    #[test]
    fn version_2_gives_the_smallest_limit_of_the_group_and_its_parents() {
        let group = ("proc/self/cgroup", "0::/kube/pod\n");
        let pod = ("sys/fs/cgroup/kube/pod/memory.max", "max\n");
        let kube = ("sys/fs/cgroup/kube/memory.max", "536870912\n");
        let tree = root(&[MEMINFO, group, pod, kube]);
        assert_eq!(available(tree.path()), Some(512 << 20));
    }

    #[test]
    fn version_2_in_a_container_has_its_limit_at_the_mounts_root() {
        let group = ("proc/self/cgroup", "0::/../../pod-of-the-host\n");
        let limit = ("sys/fs/cgroup/memory.max", "134217728\n");
        let tree = root(&[MEMINFO, group, limit]);
        assert_eq!(available(tree.path()), Some(128 << 20));
    }

    #[test]
    fn version_1_has_a_hierarchy_of_its_own_for_memory() {
        let group = ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/docker/b\n");
        let limit = (
            "sys/fs/cgroup/memory/docker/b/memory.limit_in_bytes",
            "268435456\n",
        );
        let none = (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        let tree = root(&[MEMINFO, group, limit, none]);
        assert_eq!(available(tree.path()), Some(256 << 20));
    }

    #[test]
    fn without_a_cgroup_limit_the_machines_memory_is_used() {
        let group = ("proc/self/cgroup", "0::/\n");
        let tree = root(&[MEMINFO, group]);
        assert_eq!(available(tree.path()), Some(8_000_000 * 1024));
        assert_eq!(available(root(&[]).path()), None);
    }
}
