// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ERC2771Forwarder} from "@openzeppelin/contracts/metatx/ERC2771Forwarder.sol";

/// @title A contract that looks like a forwarder and runs nothing: what a lying relayer would name. For tests only.
/// @notice Has a domain and nonces, and says of every request that it was executed with success.
contract FakeForwarder is EIP712 {
    /// @notice The next nonce of each user.
    mapping(address user => uint256) public nonces;

    event ExecutedForwardRequest(address indexed signer, uint256 nonce, bool success);

    constructor(string memory name) EIP712(name, "1") {}

    /// @notice Calls nobody.
    function execute(ERC2771Forwarder.ForwardRequestData calldata request) external payable {
        emit ExecutedForwardRequest(request.from, nonces[request.from]++, true);
    }

    /// @notice Calls nobody, many times.
    function executeBatch(ERC2771Forwarder.ForwardRequestData[] calldata requests, address payable) external payable {
        for (uint256 i = 0; i < requests.length; ++i) {
            emit ExecutedForwardRequest(requests[i].from, nonces[requests[i].from]++, true);
        }
    }
}
