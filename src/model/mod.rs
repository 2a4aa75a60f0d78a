//! The words of the program: types that every other module speaks in. No I/O, nothing of ours imported.
//!
//! Outside strings become these types once, at the edge; inside, a type says what is already known.
//! Add a type here only when two modules of different layers need the same word.

pub mod account;
pub mod attributes;
pub mod body;
pub mod clock;
pub mod connection;
pub mod ids;
pub mod names;
pub mod principal;
pub mod refusal;
pub mod rule;
pub mod secret;
pub mod target;

pub use account::{Account, Origin};
pub use attributes::{AttributeValue, Attributes};
pub use body::{Body, BoxError};
pub use clock::{Clock, ManualClock, SharedClock, SystemClock, Timestamp};
pub use connection::{ClientCertificate, Connection};
pub use ids::{RequestId, random_bytes, random_token};
pub use names::{NameError, RoleName, Username, is_operator_role};
pub use principal::{Acr, AuthMethod, Principal, PrincipalKind};
pub use refusal::{Refusal, RefusalKind};
pub use rule::RuleRef;
pub use secret::Secret;
pub use target::{CanonicalHost, CanonicalPath, NotCanonical, Target};
