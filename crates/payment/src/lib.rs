//! Payment gateways: what the worker asks before it closes an order, and through which it gives money back.
//!
//! Whatever goes wrong on the way to a gateway is a [`GatewayFault`], and no fault can be taken for "not paid".

mod alipay;
mod environment;
mod gateway;
mod replay;
mod rsa;
mod signed_http;
mod wechat;

pub use alipay::{Alipay, AlipaySettings};
pub use environment::{Clock, Environment, HttpTransport, Nonce, RandomNonce, SystemClock, Transport, TransportFault};
pub use gateway::{
    Acknowledgement, GatewayFault, Notification, PaymentGateway, Refund, RefundRequest, RefundState, further_refund_no,
    refund_no,
};
pub use rsa::BadKey;
pub use signed_http::{SignedHttp, SignedHttpSettings, hmac_signature};
pub use wechat::{VerificationKey, WeChatPay, WeChatSettings};
