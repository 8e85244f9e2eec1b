//! Which query values are not shown. Pure.

/// Hides query values that sign the URL or give access.
pub(super) fn with_hidden_values(url: &str) -> String {
    let Some((path, query)) = url.split_once('?') else {
        return url.into();
    };
    let fields: Vec<String> = query
        .split('&')
        .map(|field| match field.split_once('=') {
            Some((name, value)) if !value.is_empty() && gives_access(name) => format!("{name}=***"),
            _ => field.to_string(),
        })
        .collect();
    format!("{path}?{}", fields.join("&"))
}

/// Whether something of a URL that is shown is hidden in it.
pub(crate) fn has_hidden_values(shown: &str) -> bool {
    let query = shown.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|field| field.ends_with("=***"))
}

/// Names of query fields that carry secrets, as presigned URLs of object stores and common web services use them. How the
/// words of a name are joined makes no difference.
fn gives_access(name: &str) -> bool {
    let name = name.replace(['_', '-'], "").to_ascii_lowercase();
    let whole = [
        "sig",
        "key",
        "auth",
        "policy",
        "pwd",
        "pass",
        "jwt",
        "code",
        // Signed links of web servers and delivery networks.
        "md5",
        "hash",
        "st",
        "hdnts",
        "hdnea",
        "hdntl",
        "session",
        "sessionid",
        "sid",
        "sign",
        "xsig",
    ];
    let within = [
        "signature",
        "token",
        "secret",
        "password",
        "passwd",
        "credential",
        "authorization",
        "bearer",
        "hmac",
        "ticket",
        "authkey",
        "apikey",
        "accesskey",
        "sharedkey",
        "subscriptionkey",
    ];
    whole.contains(&name.as_str()) || within.iter().any(|part| name.contains(part))
}
