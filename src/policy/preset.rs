//! Policies with a name, for whoever asks for one: `preset:config`, `preset:media`, `preset:ledger`.

/// A policy with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Its name, behind [`PREFIX`].
    pub name: &'static str,
    /// Its text, with the reason of each rule.
    pub text: &'static str,
}

/// What tells a preset's name from a file's.
pub const PREFIX: &str = "preset:";

/// All of them.
pub const PRESETS: &[Preset] =
    &[Preset { name: "config", text: CONFIG }, Preset { name: "media", text: MEDIA }, Preset { name: "ledger", text: LEDGER }];

/// The preset of a name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

const CONFIG: &str = "\
# Plain configuration, as of Sabnzbd or Sonarr: a burst of changes is one commit.
# Caches that say that they are.
@cachedir-tag local
# LevelDB and its like call their write-ahead log so: it is no log file.
[0-9][0-9][0-9][0-9][0-9][0-9].log debounced quiet=5s max=5min
# Log files: nobody wants them back.
*.log local
# All else, the database of the application with its companions: together.
* debounced quiet=5s max=5min
";

const MEDIA: &str = "\
# A media library: what describes it at once, what it is made of every night at four (UTC).
# Caches that say that they are.
@cachedir-tag local
# Films, music and pictures as cameras write them,
*.{mkv,mp4,m4v,mov,avi,wmv,mpg,mpeg,vob,m2ts,mts,webm,iso} scheduled 0 4 * * *
*.{MKV,MP4,M4V,MOV,AVI,WMV,MPG,MPEG,VOB,M2TS,MTS,WEBM,ISO} scheduled 0 4 * * *
*.{mp3,flac,m4a,m4b,ogg,opus,wav,aiff,ape,wma} scheduled 0 4 * * *
*.{cr2,cr3,nef,arw,dng,raf,orf,rw2,CR2,CR3,NEF,ARW,DNG,RAF,ORF,RW2} scheduled 0 4 * * *
# also while a download or a copy gives them another end.
*.{mkv,mp4,m4v,mov,avi,wmv,mpg,mpeg,vob,m2ts,mts,webm,iso,mp3,flac,m4a,m4b,ogg,opus,wav}.* scheduled 0 4 * * *
# All else: databases, descriptions, posters, subtitles.
* continuous 1s
";

const LEDGER: &str = "\
# What is acknowledged must outlive the machine: each fsync waits for its commit.
# Caches that say that they are.
@cachedir-tag local
# All else; an fsync that has no commit after half a minute ends with EIO.
* strict wait=30s
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Tier};

    fn tiers(name: &str, paths: &[(&str, &str)]) {
        let policy = Policy::parse(preset(name).unwrap().text).unwrap();
        for (path, tier) in paths {
            assert_eq!(policy.tier_of(path.as_bytes(), false, &mut |_| false).to_string(), *tier, "{name} {path}");
        }
        assert_eq!(*policy.tier_of(b"cache", true, &mut |_| true), Tier::Local, "{name}");
    }

    #[test]
    fn config_is_debounced_but_for_logs() {
        const TIER: &str = "debounced quiet=5s max=5min";
        tiers(
            "config",
            &[
                ("config.xml", TIER),
                ("sonarr.db", TIER),
                ("sonarr.db-wal", TIER),
                ("store/000003.log", TIER),
                ("logs/sonarr.log", "local"),
                ("000003.log.txt", TIER),
            ],
        );
    }

    #[test]
    fn media_waits_for_the_night_and_what_describes_it_does_not() {
        const NIGHT: &str = "scheduled 0 4 * * * zone=UTC";
        const NOW: &str = "continuous 1s";
        tiers(
            "media",
            &[
                ("films/A Film (1999)/A Film.mkv", NIGHT),
                ("DCIM/100/P1.MOV", NIGHT),
                ("DCIM/100/P1.NEF", NIGHT),
                ("music/a.flac", NIGHT),
                ("films/.a.mkv.Xy12Zz", NIGHT),
                ("films/a.mp4.part", NIGHT),
                ("films/a.nfo", NOW),
                ("films/poster.jpg", NOW),
                ("library.db", NOW),
                ("library.db-wal", NOW),
                ("src/index.ts", NOW),
            ],
        );
    }

    #[test]
    fn ledger_is_strict() {
        tiers("ledger", &[("a", "strict wait=30s"), ("books/a.log", "strict wait=30s")]);
    }

    #[test]
    fn names_are_found() {
        assert!(PRESETS.iter().all(|known| preset(known.name) == Some(known)));
        assert_eq!(preset("Media"), None);
    }
}
