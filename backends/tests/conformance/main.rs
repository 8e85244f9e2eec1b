//! The suite that every backend must pass: each case a test of its own, for each backend.
#![cfg_attr(
    any(feature = "http", feature = "ftp", feature = "helper"),
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

#[cfg(feature = "ftp")]
mod ftp;
#[cfg(feature = "helper")]
mod helper;
#[cfg(feature = "http")]
mod http;
mod memory;
#[cfg(any(feature = "http", feature = "ftp"))]
mod network;

/// Makes a module of tests for a rig, one for each case by its name, and one that says that none was left out. What a
/// backend cannot do is not in its list.
macro_rules! conforms {
    ($module:ident, $rig:expr, [$($case:ident,)*]) => {
        mod $module {
            use backhaul_backends::conformance;

            use super::*;

            $(
                #[test]
                fn $case() {
                    conformance::run(&mut $rig, stringify!($case));
                }
            )*

            #[test]
            fn these_are_all_cases_that_apply() {
                assert_eq!(conformance::applicable(&$rig), [$(stringify!($case)),*]);
            }
        }
    };
}

pub(crate) use conforms;
