//! One of two files of this crate in which `unsafe` is allowed: a call to C that no safe wrapper covers.

#![allow(unsafe_code)]

use std::ffi::CStr;

use rdkafka::{ClientContext, client::Client};

/// Gives a client the user and the password of its next logins. Open connections stay.
///
/// # Errors
/// librdkafka's reason. As it stands it refuses only what is missing.
pub(crate) fn set_credentials<C: ClientContext>(
    client: &Client<C>,
    user: &CStr,
    password: &CStr,
) -> Result<(), String> {
    let (user, password) = (user.as_ptr(), password.as_ptr());
    // SAFETY: the client is alive, for we borrow it. Both texts end with NUL and are copied before the call returns, under
    // a lock that the client's own threads take to read them.
    let error = unsafe { rdkafka_sys::rd_kafka_sasl_set_credentials(client.native_ptr(), user, password) };
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is ours and destroyed once. Its text ends with NUL, and is copied before that.
    unsafe {
        let reason = CStr::from_ptr(rdkafka_sys::rd_kafka_error_string(error)).to_string_lossy().into_owned();
        rdkafka_sys::rd_kafka_error_destroy(error);
        Err(reason)
    }
}
