use std::fmt;
use std::hash::Hasher;
use std::num::NonZeroU16;

/// Over how many queues each lane, and each due queue, is spread: so many nodes of a RabbitMQ cluster can lead them, where
/// one node is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shards(NonZeroU16);

/// One of them. The first has names and routing keys without a number, so what knows nothing of shards uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Shard(u16);

/// Too many, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there must be 1 to {} shards", Shards::MAX)]
pub struct BadShards;

impl Shards {
    /// No spreading.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// More would only be more queues: a node leads many.
    pub const MAX: u16 = 64;

    /// So many.
    ///
    /// # Errors
    /// [`BadShards`] for none and for more than [`Shards::MAX`].
    pub fn new(count: u16) -> Result<Self, BadShards> {
        NonZeroU16::new(count).filter(|count| count.get() <= Self::MAX).map(Self).ok_or(BadShards)
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.get().into()
    }

    /// All of them, the first first.
    pub fn iter(self) -> impl Iterator<Item = Shard> + Clone {
        (0..self.0.get()).map(Shard)
    }

    /// The one of an order, or a timer: the CRC-32 of its ID (that of zlib and gzip, so that every language has it), modulo
    /// their count. Any other would do as well: a shard decides who works, never what is done.
    #[must_use]
    pub fn of(self, id: &str) -> Shard {
        let mut hasher = crc32fast::Hasher::new();
        hasher.write(id.as_bytes());
        Shard((hasher.finalize() % u32::from(self.0.get())) as u16)
    }
}

impl Shard {
    /// The first.
    pub const FIRST: Self = Self(0);

    /// The one whose number is this text; anything else means the first.
    #[must_use]
    pub fn named(text: &str) -> Self {
        Self(text.parse().unwrap_or(0))
    }
}

impl fmt::Display for Shard {
    /// What is added to names and routing keys: nothing for the first, `.1` for the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, ".{}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_spread_as_zlib_would_spread_them() {
        let four = Shards::new(4).unwrap();
        // python3 -c 'import zlib; print([zlib.crc32(b"order-%d" % n) % 4 for n in range(8)])'
        let expected = [1, 3, 1, 3, 0, 2, 0, 2];
        for (number, shard) in expected.into_iter().enumerate() {
            assert_eq!(four.of(&format!("order-{number}")), Shard(shard), "order-{number}");
        }
        assert_eq!(Shards::ONE.of("order-1"), Shard::FIRST);
    }

    #[test]
    fn the_first_has_the_plain_names() {
        let names: Vec<String> = Shards::new(3).unwrap().iter().map(|shard| format!("x{shard}")).collect();
        assert_eq!(names, ["x", "x.1", "x.2"]);
        assert_eq!((Shard::named("2"), Shard::named("x")), (Shard(2), Shard::FIRST));
        assert_eq!((Shards::new(0), Shards::new(65)), (Err(BadShards), Err(BadShards)));
    }
}
