//! Fields of requests -> what the roles work with: pure. What is missing or wrong is said with its field's name.

use crate::controller::{Handle, Range};
use crate::node::{Access, FLAGS, Mode};
use crate::rpc::csi::volume_capability::access_mode::Mode as Wire;
use crate::rpc::csi::volume_capability::{AccessType, MountVolume};
use crate::rpc::csi::{CapacityRange, VolumeCapability};
use std::path::{Path, PathBuf};
use tonic::Status;

/// Of the text fields that have no limit of their own.
const TEXT_MAX: usize = 128;
/// Of all mount flags.
const FLAGS_BYTES_MAX: usize = 4096;
/// Of a path, as the kernel has it.
const PATH_MAX: usize = 4095;

/// A text that must be there.
pub(super) fn text<'a>(value: &'a str, field: &str) -> Result<&'a str, Status> {
    match value {
        "" => Err(Status::invalid_argument(format!("{field} is missing"))),
        long if long.len() > TEXT_MAX => Err(Status::invalid_argument(format!("{field} has more than {TEXT_MAX} bytes"))),
        value => Ok(value),
    }
}

/// A text that must be there, of whatever length: it was made by a driver.
pub(super) fn present<'a>(value: &'a str, field: &str) -> Result<&'a str, Status> {
    if value.is_empty() { Err(Status::invalid_argument(format!("{field} is missing"))) } else { Ok(value) }
}

/// A name that the caller chose.
pub(super) fn name<'a>(value: &'a str, field: &str) -> Result<&'a str, Status> {
    match text(value, field)? {
        bad if bad.chars().any(char::is_control) => Err(Status::invalid_argument(format!("{field} has control characters"))),
        name => Ok(name),
    }
}

/// A volume's handle; `None`: it is there and none of ours, so that no volume has it.
pub(super) fn handle(volume_id: &str) -> Result<Option<Handle>, Status> {
    handle_in(volume_id, "volume_id")
}

/// The same in another field.
pub(super) fn handle_in(volume_id: &str, field: &str) -> Result<Option<Handle>, Status> {
    match volume_id {
        "" => Err(Status::invalid_argument(format!("{field} is missing"))),
        // Whoever made a longer one was not this driver.
        id => Ok(Handle::parse(id)),
    }
}

/// A handle of a volume that must be.
pub(super) fn known(handle: Option<Handle>) -> Result<Handle, Status> {
    handle.ok_or_else(|| Status::not_found("no volume of this driver has that volume_id"))
}

/// A path that is written to.
pub(super) fn place(value: &str, field: &str) -> Result<PathBuf, Status> {
    let path = Path::new(value);
    match value {
        "" => Err(Status::invalid_argument(format!("{field} is missing"))),
        long if long.len() > PATH_MAX || long.contains('\0') => Err(Status::invalid_argument(format!("{field} is no path"))),
        _ if !path.is_absolute() || path.file_name().is_none() => {
            Err(Status::invalid_argument(format!("{field} is not absolute, or names no directory: {}", value.escape_debug())))
        }
        _ => Ok(path.to_owned()),
    }
}

/// A size.
pub(super) fn range(range: Option<CapacityRange>) -> Result<Range, Status> {
    let CapacityRange { required_bytes, limit_bytes } = range.unwrap_or_default();
    let size = |bytes: i64, field: &str| {
        u64::try_from(bytes).map_err(|_| Status::invalid_argument(format!("capacity_range.{field} is less than nothing")))
    };
    Ok(Range { required: size(required_bytes, "required_bytes")?, limit: size(limit_bytes, "limit_bytes")? })
}

/// How a volume is to be used.
pub(super) fn access(capability: Option<&VolumeCapability>) -> Result<Access, Status> {
    let capability = capability.ok_or_else(|| Status::invalid_argument("volume_capability is missing"))?;
    let mode = capability.access_mode.as_ref().map(|mode| mode.mode());
    let mode = match mode {
        None | Some(Wire::Unknown) => return Err(Status::invalid_argument("volume_capability.access_mode is missing")),
        Some(Wire::SingleNodeWriter | Wire::SingleNodeMultiWriter) => Mode::OneNode,
        Some(Wire::SingleNodeSingleWriter) => Mode::OnePod,
        Some(Wire::SingleNodeReaderOnly) => Mode::Readers,
        Some(many @ (Wire::MultiNodeReaderOnly | Wire::MultiNodeSingleWriter | Wire::MultiNodeMultiWriter)) => {
            let why = format!("{}: a volume is used on one node at a time (ReadWriteOnce, ReadWriteOncePod)", many.as_str_name());
            return Err(Status::invalid_argument(why));
        }
    };
    match &capability.access_type {
        Some(AccessType::Mount(mount)) => mounted(mode, mount),
        Some(AccessType::Block(_)) => Err(Status::invalid_argument("a volume is a file system: there are no block volumes")),
        None => Err(Status::invalid_argument("volume_capability.access_type is missing")),
    }
}

fn mounted(mode: Mode, mount: &MountVolume) -> Result<Access, Status> {
    if !mount.fs_type.is_empty() {
        let why = format!("fs_type `{}`: a volume is a file system of its own kind, leave it out", mount.fs_type.escape_debug());
        return Err(Status::invalid_argument(why));
    }
    if mount.mount_flags.iter().map(String::len).sum::<usize>() > FLAGS_BYTES_MAX {
        return Err(Status::invalid_argument(format!("mount_flags have more than {FLAGS_BYTES_MAX} bytes")));
    }
    let mut flags = mount.mount_flags.clone();
    flags.sort();
    flags.dedup();
    if let Some(unknown) = flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
        let why = format!("there is no mount flag `{}`; there are {}", unknown.escape_debug(), FLAGS.join(", "));
        return Err(Status::invalid_argument(why));
    }
    let group = match mount.volume_mount_group.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Status::invalid_argument("volume_mount_group is no number of a group"))?),
    };
    Ok(Access { mode, flags, group })
}

/// All that a volume is to be able to do.
pub(super) fn every_access(capabilities: &[VolumeCapability]) -> Result<(), Status> {
    if capabilities.is_empty() {
        return Err(Status::invalid_argument("volume_capabilities are missing"));
    }
    capabilities.iter().try_for_each(|capability| access(Some(capability)).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::csi::volume_capability::{AccessMode, BlockVolume};
    use tonic::Code;

    fn capability(mode: Wire, mount: MountVolume) -> VolumeCapability {
        VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: Some(AccessType::Mount(mount)) }
    }

    #[test]
    fn capabilities_that_there_are_pass_and_no_others() {
        let plain = |mode| access(Some(&capability(mode, MountVolume::default()))).map(|access| access.mode);
        assert_eq!(plain(Wire::SingleNodeWriter).unwrap(), Mode::OneNode);
        assert_eq!(plain(Wire::SingleNodeMultiWriter).unwrap(), Mode::OneNode);
        assert_eq!(plain(Wire::SingleNodeSingleWriter).unwrap(), Mode::OnePod);
        assert_eq!(plain(Wire::SingleNodeReaderOnly).unwrap(), Mode::Readers);
        for mode in [Wire::Unknown, Wire::MultiNodeReaderOnly, Wire::MultiNodeSingleWriter, Wire::MultiNodeMultiWriter] {
            assert_eq!(plain(mode).unwrap_err().code(), Code::InvalidArgument, "{mode:?}");
        }
        let with = |mount| access(Some(&capability(Wire::SingleNodeWriter, mount)));
        let flags =
            |flags: &[&str]| MountVolume { mount_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..Default::default() };
        assert_eq!(with(flags(&["relatime", "noatime", "noatime"])).unwrap().flags, ["noatime", "relatime"]);
        assert!(with(flags(&["loop"])).unwrap_err().message().contains("no mount flag `loop`"));
        assert!(with(flags(&["x".repeat(4097).as_str()])).unwrap_err().message().contains("4096"));
        assert!(with(MountVolume { fs_type: "ext4".into(), ..Default::default() }).is_err());
        let group = |text: &str| with(MountVolume { volume_mount_group: text.into(), ..Default::default() });
        assert_eq!(group("1000").unwrap().group, Some(1000));
        assert!(group("staff").is_err());
        let block = VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            ..capability(Wire::SingleNodeWriter, MountVolume::default())
        };
        assert!(access(Some(&block)).is_err() && access(None).is_err() && every_access(&[]).is_err());
    }

    #[test]
    fn fields_are_told_by_name() {
        assert!(text("", "name").unwrap_err().message().contains("name is missing"));
        assert!(text(&"x".repeat(129), "name").is_err() && text(&"x".repeat(128), "name").is_ok());
        assert_eq!(handle("").unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(known(handle("fake-vol-id").unwrap()).unwrap_err().code(), Code::NotFound);
        assert!(place("/a/b", "target_path").is_ok());
        for bad in ["", "a/b", "/", "/a/..", &format!("/{}", "x".repeat(4096))] {
            assert_eq!(place(bad, "target_path").unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
        assert!(range(Some(CapacityRange { required_bytes: -1, limit_bytes: 0 })).is_err());
        assert_eq!(range(None).unwrap(), Range::default());
    }
}
