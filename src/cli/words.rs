//! Passwords that can be read out, for accounts that `demo` and `init` make.

use crate::model::random_bytes;

/// Two words, two digits, a word and twelve hexadecimal digits: 2^66 of them. Begins with a letter.
pub fn passphrase() -> String {
    const FIRST: [&str; 16] = [
        "tidy", "brave", "calm", "eager", "fair", "glad", "keen", "lucid", "merry", "noble", "proud",
        "quick", "sunny", "tall", "vivid", "warm",
    ];
    const SECOND: [&str; 16] = [
        "otter", "maple", "heron", "cedar", "finch", "larch", "raven", "aspen", "trout", "rowan", "stoat",
        "birch", "swift", "hazel", "lynx", "alder",
    ];
    const THIRD: [&str; 16] = [
        "lamp", "quill", "anvil", "kettle", "ladder", "mirror", "needle", "oar", "pillow", "rope", "saddle",
        "table", "urn", "vase", "wheel", "basket",
    ];
    let word =
        |words: [&'static str; 16], byte: u8| words.into_iter().nth(usize::from(byte % 16)).unwrap_or("x");
    let [a, b, c, d, rest @ ..] = random_bytes::<10>();
    format!("{}-{}-{:02}-{}-{}", word(FIRST, a), word(SECOND, b), d % 100, word(THIRD, c), hex::encode(rest))
}
