/// A person who has something done to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// As what they act: `merchant`, `customer`, `support` and so on.
    pub kind: String,
    /// Who they are.
    pub name: String,
}
