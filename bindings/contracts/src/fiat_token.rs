//! Circle's `FiatTokenV2_2` (USDC), the token of most EIP-3009 payments. For tests and local chains.

use alloc::vec::Vec;

use alloy_primitives::Address;
use alloy_sol_types::{SolCall, sol};

use crate::code::{code_bytes, decode_code};

/// The version of its EIP-712 domain; the name is the token's.
pub const DOMAIN_VERSION: &str = "2";

sol! {
    /// The part that gives somebody money. Payments are in [`eip3009`](crate::eip3009).
    #[derive(Debug, PartialEq, Eq)]
    interface IFiatToken {
        /// Amount was moved.
        event Transfer(address indexed from, address indexed to, uint256 value);

        /// First initialization.
        function initialize(
            string memory tokenName, string memory tokenSymbol, string memory tokenCurrency, uint8 tokenDecimals,
            address newMasterMinter, address newPauser, address newBlacklister, address newOwner
        ) external;
        /// Second initialization: the domain's name.
        function initializeV2(string calldata newName) external;
        /// Third initialization.
        function initializeV2_1(address lostAndFound) external;
        /// Fourth initialization.
        function initializeV2_2(address[] calldata accountsToBlacklist, string calldata newSymbol) external;
        /// Lets `minter` mint up to an amount.
        function configureMinter(address minter, uint256 minterAllowedAmount) external returns (bool);
        /// Mints.
        function mint(address to, uint256 amount) external returns (bool);
        /// Amount that `account` holds.
        function balanceOf(address account) external view returns (uint256);
    }
}

/// Init code of the library that checks signatures.
#[must_use]
pub const fn signature_checker_code() -> &'static [u8] {
    &SIGNATURE_CHECKER_CODE
}

/// Init code of the token, linked with the library at `signature_checker`. The token works after [`setup_calls`].
#[must_use]
pub fn deploy_code(signature_checker: Address) -> Vec<u8> {
    let mut code = CREATION_CODE.to_vec();
    for offset in LINKS {
        code[offset..offset + 20].copy_from_slice(signature_checker.as_slice());
    }
    code
}

/// Calldata of the calls that `admin` makes to a new token, in order: afterwards it is called "USD Coin", and `admin` may
/// mint as much as it likes.
#[must_use]
pub fn setup_calls(admin: Address) -> [Vec<u8>; 5] {
    use IFiatToken as T;
    let (name, symbol) = ("USD Coin", "USDC");
    let initialize = T::initializeCall {
        tokenName: name.into(),
        tokenSymbol: symbol.into(),
        tokenCurrency: "USD".into(),
        tokenDecimals: 6,
        newMasterMinter: admin,
        newPauser: admin,
        newBlacklister: admin,
        newOwner: admin,
    };
    let v2_2 = T::initializeV2_2Call { accountsToBlacklist: Vec::new(), newSymbol: symbol.into() };
    [
        initialize.abi_encode(),
        T::initializeV2Call { newName: name.into() }.abi_encode(),
        T::initializeV2_1Call { lostAndFound: admin }.abi_encode(),
        v2_2.abi_encode(),
        T::configureMinterCall { minter: admin, minterAllowedAmount: alloy_primitives::U256::MAX }.abi_encode(),
    ]
}

/// Byte offsets of the library's address in the creation code, which has zeros there.
const LINKS: [usize; 2] = [18_494, 20_209];

static CREATION_CODE: [u8; code_bytes(CREATION_HEX)] = decode_code(CREATION_HEX);
const CREATION_HEX: &[u8] = include_bytes!("../artifacts/FiatTokenV2_2.creation.hex");
static SIGNATURE_CHECKER_CODE: [u8; code_bytes(SIGNATURE_CHECKER_HEX)] = decode_code(SIGNATURE_CHECKER_HEX);
const SIGNATURE_CHECKER_HEX: &[u8] = include_bytes!("../artifacts/SignatureChecker.creation.hex");
